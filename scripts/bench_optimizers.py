"""Time of an optimizer's step and bytes of its state, on a model's parameters with random gradients.

    OMP_NUM_THREADS=1 python scripts/bench_optimizers.py --model FOLDER [--device cuda] [--steps 10]

One process, one optimizer after the other, the median of the steps after two that warm up; beside them the time of
forward and backward passes of 32 rows of 32 tokens, which is what a training step of 1,024 tokens costs besides.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from llmtune.config.locate import conf_dir, config_file, option_files
from llmtune.config.shelf import find_part
from llmtune.model.layers import LayerMap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2).to(args.device)
    size = sum(weight.numel() for weight in network.parameters())
    print(f"{size / 1e6:.1f}M parameters, torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads")
    print(f"forward and backward: {1000 * passes(network, args.steps, args.device):.0f} ms")
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight) * 1e-3
    layers = LayerMap.of(network, network.base_model_prefix)
    makers: dict[str, Callable[[], Any]] = {
        name: lambda name=name: made(name, network, layers) for name in option_files("optimizer", [conf_dir()])
    }  # fmt: skip
    for name, kernels in (("foreach", {"foreach": True}), ("one by one", {"foreach": False})):
        makers[f"adamw, {name}"] = lambda kernels=kernels: torch.optim.AdamW(network.parameters(), lr=1e-5, **kernels)
    print("| optimizer | ms a step | state, bytes a parameter |\n|---|---:|---:|")
    for name, make in makers.items():
        try:
            optimizer = make()
        except ImportError:
            continue  # bitsandbytes is not here
        seconds = timed(optimizer.step, args.steps, args.device)
        print(f"| {name} | {1000 * seconds:.0f} | {state_bytes(optimizer) / size:.2f} |", flush=True)
        del optimizer
        gc.collect()


def made(option: str, network: nn.Module, layers: LayerMap) -> Any:
    """An option of conf/optimizer with its shipped values."""
    values: Any = OmegaConf.to_container(OmegaConf.load(str(config_file(f"optimizer/{option}", [conf_dir()]))))
    parts: Any = SimpleNamespace(network=network, layers=layers, peak_lr=1e-5)
    return find_part("optimizer", option, [], "optimizer.name").load()(**values).build(parts)


def passes(network: nn.Module, steps: int, device: str) -> float:
    ids = torch.randint(1000, 2000, (32, 32), device=device)

    def once() -> None:
        network.zero_grad(set_to_none=True)
        network(input_ids=ids).logits.square().mean().backward()

    return timed(once, steps, device)


def timed(call: Callable[[], Any], steps: int, device: str) -> float:
    """Median seconds of a call, after two that warm up."""
    seconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def state_bytes(optimizer: Any) -> int:
    """Tensors that several parameters share count once."""
    tensors = {
        value.data_ptr(): value
        for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    }  # fmt: skip
    return sum(value.numel() * value.element_size() for value in tensors.values())


if __name__ == "__main__":
    main()

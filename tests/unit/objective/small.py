"""A small network, rows and an objective as shipped, for tests of what objectives add up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from llmtune.config.locate import conf_dir
from llmtune.config.shelf import find_part
from llmtune.core.types import Batch
from llmtune.freeze_policy.none import NoFreezing
from llmtune.model.layers import LayerMap
from llmtune.model.trunk import Trunk
from llmtune.task.classification import HUGGING_FACE_NAMES, Classification, ClassificationTask

PROBLEMS = ("single_label", "multi_label", "regression")
NUM_CLASSES = {"single_label": 3, "multi_label": 3, "regression": 1}
SHAPES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "eos_token_id": 1,
           "decoder_start_token_id": 0},
    "bart": {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "bos_token_id": 0,
             "eos_token_id": 1, "decoder_start_token_id": 1, "forced_eos_token_id": None},
}  # fmt: skip
LENGTHS = (3, 7, 5, 7, 4, 6)


def network_of(family: str, problem: str = "single_label", *, dropout: float = 0.0) -> Any:
    """A task model in training mode with random weights, larger than usual so that its outputs differ by row."""
    names = {"gpt2": ("embd_pdrop", "attn_pdrop", "resid_pdrop"), "t5": ("dropout_rate",),
             "bart": ("dropout", "attention_dropout", "activation_dropout")}  # fmt: skip
    dropped = names.get(family, ("hidden_dropout_prob", "attention_probs_dropout_prob"))
    config = AutoConfig.for_model(
        family, **SHAPES[family], vocab_size=40, pad_token_id=0, num_labels=NUM_CLASSES[problem],
        problem_type=HUGGING_FACE_NAMES[problem], **dict.fromkeys(dropped, dropout),
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3)
    return model.train()


def task_of(problem: str = "single_label", **changed: Any) -> ClassificationTask:
    task = ClassificationTask(Classification(name="x", kind="classification", problem_type=problem, metric="auto",
                                             threshold=0.5, pooling="auto"))  # fmt: skip
    for name, value in changed.items():
        setattr(task, name, value)
    return task


def batch_of(problem: str = "single_label", rows: slice = slice(None)) -> Batch:
    """Some of six rows of several lengths, padded to the longest of them."""
    draws = torch.Generator().manual_seed(1)
    lengths = LENGTHS[rows]
    ids = torch.randint(2, 40, (len(LENGTHS), max(LENGTHS)), generator=draws)[rows, : max(lengths)]
    mask = torch.stack([(torch.arange(max(lengths)) < length).long() for length in lengths])
    label = {
        "single_label": torch.tensor([0, 2, 1, 0, 1, 2]),
        "multi_label": (torch.rand(6, 3, generator=draws) < 0.5).float(),
        "regression": torch.randn(6, generator=draws),
    }[problem][rows]
    numbers = list(range(len(LENGTHS)))[rows]
    return Batch(row_ids=numbers, views={"clean": {"input_ids": ids * mask, "attention_mask": mask}},
                 targets={"label": label}, row_seeds=[100 + number for number in numbers])  # fmt: skip


def settings_of(option: str, /, **changed: Any) -> Any:
    """The settings of an objective as shipped, with some of them changed."""
    values = yaml.safe_load(Path(conf_dir(), "objective", f"{option}.yaml").read_text(encoding="utf-8"))[option]
    return find_part("objective", option, [], f"objective.{option}.name").load()(**{**values, **changed})


def parts_of(network: nn.Module, task: Any, **more: Any) -> Any:
    policy = NoFreezing(name="none")
    config = SimpleNamespace(freeze_policy=policy, model=SimpleNamespace(dropout=None), seed=3,
                             adapter=SimpleNamespace(name="none"), objective={})  # fmt: skip
    layers = LayerMap.of(network, network.base_model_prefix)
    common = {"network": network, "task": task, "layers": layers, "config": config, "num_steps": 10}
    return SimpleNamespace(**{**common, **more})


def gradients_of(network: nn.Module, total: torch.Tensor) -> dict[str, torch.Tensor]:
    """By name, for all parameters that `total` depends on; what was there before is cleared."""
    network.zero_grad()
    total.backward()
    return {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], **close: float) -> None:
    assert found.keys() == expected.keys()
    assert max(float(grad.abs().max()) for grad in expected.values()) > 1e-4
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, **{"rtol": 1e-4, "atol": 1e-6, **close}, msg=name)


def checked(option: str, network: nn.Module, problem: str = "single_label", /, **changed: Any) -> tuple[Any, Any, Any]:
    """An objective as `build` makes it, its trunk, its task."""
    task = task_of(problem)
    return settings_of(option, **changed).build(parts_of(network, task)), Trunk(network), task


def with_checkpoints(network: Any) -> None:
    """Activations are computed again in the backward pass, as train.gradient_checkpointing has it."""
    enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    enable({"use_reentrant": False})

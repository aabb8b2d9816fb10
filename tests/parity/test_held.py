"""What is frozen and lies in bf16 in its file is held so in a bf16 run, and not one number is another for it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from llmtune.core.errors import Stopped
from llmtune.finish import finish
from llmtune.model import held
from llmtune.run.checkpoint import CheckpointStore
from llmtune.run.console import Console
from llmtune.run.rundir import RunDir
from llmtune.training.trainer import Trainer
from tests.parity.test_resume_optimizers import files_of, stop_after
from tests.tiny import BESIDE, prepared_of, trainer_of, write_rows

CLOCKS = (
    "hardware.device=cpu", "hardware.threads=1", "hardware.precision=bf16", "train.batch_rows=8", "train.max_steps=4",
    "train.eval_every=2", "train.save_every=2", "train.log_every=1", "optimizer.lr=0.01", "train.verify_model=here",
)  # fmt: skip
LLAMA = (
    "model.architecture={model_type: llama, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, "
    "num_key_value_heads: 2, intermediate_size: 48, max_position_embeddings: 512}"
)
SHAPES = {
    "bert": ("task=sentiment model.architecture.hidden_size=16 model.architecture.intermediate_size=32", "MaskedLM"),
    "gpt2": ("task=sentiment model=tiny_gpt2 model.architecture.n_embd=32", "CausalLM"),
    "llama": ("task=instruct model.architecture=LLAMA", "CausalLM"),
    "t5": ("task=translate model=tiny_t5", "Seq2SeqLM"),
}
"""by family: the words that make one on the spot, and transformers' class that writes it into a folder"""
MORE = {"BESIDE": (BESIDE,), "WRITES": ("data.limit=24", "task.generate_rows=2", "task.max_new_tokens=4")}
RUNS = {
    "LoRA": "bert adapter=lora",
    "AdaLoRA": "bert adapter=adalora adapter.every=1 train.swa=0.5",
    "prefixes": "llama adapter=prefix WRITES",
    "top layers from the cache": "bert freeze_policy=top_layers freeze_policy.layers=1 train.prefix_cache=on",
    "a schedule": "bert freeze_policy=gradual freeze_policy.every=3",
    "near the start": "bert freeze_policy=top_layers freeze_policy.layers=1 objective=[supervised,ewc,l2_sp,mixout] "
    "objective.ewc.sample_rows=4",
    "its own teacher": "bert adapter=lora objective=[supervised,self_distillation]",
    "another task beside": "bert adapter=lora objective=[supervised,auxiliary] BESIDE",
    "packed": "gpt2 adapter=lora train.packing=true",
    "replay of what it writes": "gpt2 adapter=lora objective=[supervised,replay] objective.replay.rows=generated "
    "objective.replay.generated_rows=6 objective.replay.generated_tokens=6",
    "a decoder that writes": "llama adapter=lora freeze_policy=adapters_only WRITES",
    "an encoder-decoder": "t5 adapter=lora WRITES",
}


@pytest.fixture(autouse=True)
def cpu_may(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("llmtune.hardware.machine.cpu_has_bf16", lambda: True)
    yield
    AcceleratorState._reset_state()


def fresh_trainer(prepared: Any, folder: Path) -> Trainer:
    """accelerate knows one precision a process."""
    AcceleratorState._reset_state()
    return trainer_of(prepared, folder)


@pytest.fixture(scope="module")
def words_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """(family, dtype) -> words of a run from a folder that has it in that dtype."""
    rows = write_rows(tmp_path_factory.mktemp("rows"), rows=24)

    @functools.cache
    def found(family: str, dtype: torch.dtype = torch.bfloat16) -> list[str]:
        folder = tmp_path_factory.mktemp(family)
        shape, kind = SHAPES[family]
        words = [LLAMA if word.endswith("=LLAMA") else word for word in shape.split()]
        data = ["data=files", *rows] if "task=sentiment" in words else ["data.limit=24"]
        made = prepared_of(*words, *data, "hardware.device=cpu", "model.tokenizer.vocab_size=300")
        config = fresh_trainer(made, folder / "run").composite.model.config
        torch.manual_seed(0)
        getattr(transformers, f"AutoModelFor{kind}").from_config(config).to(dtype).save_pretrained(folder)
        made.tokenizer.save_pretrained(folder)
        task = next(word for word in words if word.startswith("task="))
        return [task, *([] if data[0] == "data.limit=24" else data), "model=pretrained", f"model.path={folder}",
                "train.epochs=2"]  # fmt: skip

    return found


def asked_for(words: str, words_of: Any) -> list[str]:
    family, *others = words.split()
    return [*words_of(family), *CLOCKS, *(one for word in others for one in MORE.get(word, (word,)))]


def started(words: list[str], folder: Path) -> tuple[Trainer, Any]:
    prepared = prepared_of(*words)
    trainer = fresh_trainer(prepared, folder)
    trainer.resume(CheckpointStore(folder / "checkpoints", keep=1).newest_good(print))
    return trainer, prepared


def in_bf16(trainer: Trainer) -> set[str]:
    return {name for name, weight in trainer.composite.named_parameters() if weight.dtype == torch.bfloat16}


def finished(trainer: Trainer, prepared: Any, folder: Path) -> dict[str, Any]:
    """All that a run leaves but times and memory."""
    trainer.fit()
    result = finish(trainer, prepared, RunDir(folder), Console(quiet=True))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "result": {key: value for key, value in result.items() if "second" not in key and "memory" not in key},
        "metrics": [{key: value for key, value in line.items() if "second" not in key} for line in lines],
        "predictions": (folder / "predictions.jsonl").read_text(),
        "model": load_file(folder / "model" / "model.safetensors"),
        "trained": load_file(sorted((folder / "checkpoints").glob("step-*"))[-1] / "model.safetensors"),
    }


def same(first: dict[str, Any], second: dict[str, Any]) -> None:
    for key in ("model", "trained"):
        one, other = first.pop(key), second.pop(key)
        assert one.keys() == other.keys()
        assert all(value.dtype == other[name].dtype != torch.bfloat16 for name, value in one.items())
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert first == second


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_held_or_not_every_number_is_the_same(
    words: str, words_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_for(words, words_of)
    trainer, prepared = started(asked, tmp_path / "held")
    names = in_bf16(trainer)
    assert names
    trains = {name for name, weight in trainer.composite.named_parameters() if weight.requires_grad}
    assert not names & trains
    assert all(name.endswith(".weight") and "embed" not in name and "norm" not in name.lower() for name in names)
    with_it = finished(trainer, prepared, tmp_path / "held")
    assert with_it["result"]["frozen_unchanged"]

    monkeypatch.setattr(held, "hold", lambda *args: None)
    trainer, prepared = started(asked, tmp_path / "plain")
    assert not in_bf16(trainer)
    same(with_it, finished(trainer, prepared, tmp_path / "plain"))


@pytest.mark.parametrize("words", ["bert adapter=lora", "llama freeze_policy=top_layers freeze_policy.layers=1 WRITES"])
def test_stopped_and_resumed_equals_unstopped(
    words: str, words_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_for(words, words_of)
    started(asked, tmp_path / "unstopped")[0].fit()
    trainer, _ = started(asked, tmp_path / "stopped")
    names = in_bf16(trainer)
    stop_after(trainer, 2)
    with pytest.raises(Stopped):
        trainer.fit()
    (kept,) = (tmp_path / "stopped" / "checkpoints").glob("frozen-*")
    assert {name for name, value in load_file(kept).items() if value.dtype == torch.bfloat16} == names
    again, prepared = started(asked, tmp_path / "stopped")
    assert in_bf16(again) == names
    again.fit()
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "unstopped")

    # the same run goes on where nothing is held: its proof still knows what was frozen
    monkeypatch.setattr(held, "hold", lambda *args: None)
    other, prepared = started([*asked, "train.max_steps=6"], tmp_path / "stopped")
    assert not in_bf16(other)
    other.fit()
    assert finish(other, prepared, RunDir(tmp_path / "stopped"), Console(quiet=True))["frozen_unchanged"]


def test_a_checkpoint_is_never_rounded(words_of: Any, tmp_path: Path) -> None:
    trainer, _ = started([*words_of("bert"), *CLOCKS, "adapter=lora"], tmp_path)
    name = min(in_bf16(trainer))
    tensors = {key: value.detach().clone() for key, value in trainer._weights().items()}
    tensors[name] = tensors[name].float() + 1e-7
    trainer.load_weights(tensors)
    assert torch.equal(trainer._weights()[name], tensors[name])
    assert in_bf16(trainer) == {key for key, value in tensors.items() if value.dtype == torch.bfloat16}


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (torch.float32, "adapter=lora"), (torch.bfloat16, "adapter=lora hardware.precision=fp32"),
        (torch.bfloat16, "freeze_policy=none"),
    ],
)  # fmt: skip
def test_all_else_stays_in_fp32(dtype: torch.dtype, words: str, words_of: Any, tmp_path: Path) -> None:
    trainer, _ = started([*words_of("bert", dtype), *CLOCKS, *words.split()], tmp_path)
    assert not in_bf16(trainer)


def test_a_run_says_what_it_holds() -> None:
    network = torch.nn.Sequential(torch.nn.Embedding(3, 4), torch.nn.Linear(4, 3), torch.nn.Linear(3, 3))
    network[1].weight = network[0].weight  # a table of words that also scores them
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(weight.bfloat16())
    said: list[str] = []
    held.hold(network, {name for name, _ in network.named_parameters()}, said.append)
    assert [str(weight.dtype) for weight in network.parameters()] == [
        "torch.float32", "torch.float32", "torch.bfloat16", "torch.float32",
    ]  # fmt: skip
    assert said == ["9 of 27 frozen weights are held in bf16, as their files have them"]


def test_passes_outside_of_autocast_are_those_of_fp32() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(weight.bfloat16())
    given, said = torch.randn(3, 8), []
    wanted = network(given)
    held.hold(network, {name for name, _ in network.named_parameters()}, said.append)
    with held.computed_in_fp32(network, network[0]):
        assert torch.equal(network(given), wanted)
    assert network[0].weight.dtype == torch.bfloat16
    with pytest.raises(RuntimeError):
        network(given)

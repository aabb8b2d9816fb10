"""What `auto` comes to, and the room on the disk that is asked for, beside what a run really takes."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmtune.core.errors import ConfigError
from llmtune.plan import disk_budget, peak_lr
from tests.tiny import TINY, config_of, prepared_of, trainer_of, write_rows

FACTORS = {
    "adamw": 1, "adam": 1, "adamw_8bit": 1, "adafactor": 1, "muon": 3, "lion": 0.3, "schedule_free_adamw": 2,
    "sgd": 300,
}  # fmt: skip


@pytest.mark.parametrize("option", FACTORS)
def test_automatic_learning_rate_is_the_models_for_the_optimizer(option: str) -> None:
    words = ("task=sentiment", "model=minilm", f"optimizer={option}")
    config = config_of(*words)
    assert peak_lr(config) == pytest.approx(FACTORS[option] * config.model.recommended.lr)
    assert peak_lr(config_of(*words, "optimizer.lr=0.01")) == 0.01


def test_a_policy_that_trains_little_trains_it_faster() -> None:
    whole, head = (config_of("task=sentiment", f"freeze_policy={name}") for name in ("none", "head_only"))
    assert peak_lr(head) == pytest.approx(20 * peak_lr(whole))


STATES = {
    "adamw": "optimizer=adamw", "adam, averaged": "optimizer=adam train.ema=0.9", "sgd": "optimizer=sgd",
    "sgd without momentum": "optimizer=sgd optimizer.momentum=0 optimizer.nesterov=false", "lion": "optimizer=lion",
    "adafactor": "optimizer=adafactor", "adafactor with momentum": "optimizer=adafactor optimizer.momentum=0.9",
    "schedule-free": "optimizer=schedule_free_adamw", "LoRA": "adapter=lora",
    "LoRA, averaged": "adapter=lora train.ema=0.9", "head": "freeze_policy=head_only optimizer=lion",
    "gradual": "freeze_policy=gradual freeze_policy.every=1",
    "converging": "freeze_policy=converging freeze_policy.every=1",
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def bytes_of(path: Path) -> int:
    """Of a file's tensors, headers and counts of steps apart."""
    from safetensors.torch import load_file

    return sum(value.nbytes for value in load_file(path).values() if value.ndim) if path.exists() else 0


@pytest.mark.parametrize("words", STATES.values(), ids=STATES)
def test_room_asked_for_is_what_checkpoints_take(words: str, rows: list[str], tmp_path: Path) -> None:
    prepared = prepared_of(*TINY, *rows, "train.batch_rows=20", "train.max_steps=4", "train.keep=1", *words.split())
    trainer = trainer_of(prepared, tmp_path / "run")
    trainer.fit()
    checkpoints = tmp_path / "run" / "checkpoints"
    (state,), (best,) = checkpoints.glob("step-*"), checkpoints.glob("best-*")
    taken = 2 * (sum(map(bytes_of, state.glob("*.safetensors"))) + bytes_of(best / "model.safetensors"))
    taken += sum(map(bytes_of, checkpoints.glob("frozen-*")))
    layers = trainer.freezing.layers
    model = 4 * prepared.parameters + (bytes_of(best / "model.safetensors") if layers.adapters else 0)
    assert prepared.disk_budget == pytest.approx(taken + model, rel=0.01)


def test_lora_on_seven_billion_weights_is_not_asked_for_their_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llmtune.model.layers import LayerMap, wrap

    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=60 * 10**9))

    def budget(*words: str) -> int:
        config = config_of("task=causal_lm", *words)
        with torch.device("meta"):
            network: Any = LlamaForCausalLM(LlamaConfig())
        network, added = wrap(config.adapter.build(None), network)
        layers = LayerMap.of(network, "model", added)
        prospect = SimpleNamespace(config=config, network=network, layers=layers, num_steps=100, steps_per_epoch=50)
        return disk_budget(prospect, None)  # type: ignore[arg-type]

    weights = 4 * 6_738_415_616
    assert 2 * weights < budget("adapter=lora") < 2.2 * weights  # adapter and head, 0.15 billion, train
    with pytest.raises(ConfigError, match=r"checkpoints may take 225\.9 GiB"):
        budget("adapter=none")


def test_8_bit_moments_are_counted_as_such() -> None:
    from llmtune.optimizer.adamw_8bit import AdamW8Bit

    settings = SimpleNamespace(smallest_8bit=4096)
    assert AdamW8Bit.state_bytes(settings, (10, 10)) == 8 * 100  # type: ignore[arg-type]
    assert AdamW8Bit.state_bytes(settings, (4096, 4096)) == pytest.approx(2 * 4096**2, rel=0.02)  # type: ignore[arg-type]

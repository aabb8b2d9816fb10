"""Freeze policies that change in time: resumed runs equal unstopped ones to the bit, two processes equal one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llmtune.core.errors import Stopped
from llmtune.preflight import Prepared
from llmtune.run.checkpoint import CheckpointStore
from llmtune.run.signals import StopRequest
from llmtune.training.trainer import Trainer
from tests.tiny import TINY, prepared_of, sha_of, trainer_of, write_rows

STEPS = 14
WORDS = ("train.batch_rows=9", "train.micro_rows=4", f"train.max_steps={STEPS}", "train.eval_every=4",
         "train.save_every=5", "train.keep=2", "train.log_every=3", "model.architecture.num_hidden_layers=4",
         "optimizer.weight_decay=0.1")  # fmt: skip
POLICIES = {
    "gradual": ["freeze_policy=gradual", "freeze_policy.every=3"],
    "chain_thaw": ["freeze_policy=chain_thaw", "freeze_policy.every=2"],
    "probe_then_tune": ["freeze_policy=probe_then_tune", "freeze_policy.probe=6", "train.ema=0.9"],
    "converging": ["freeze_policy=converging", "freeze_policy.every=2", "freeze_policy.percentile=80"],
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


class StopBefore(StopRequest):
    """Asks for a stop when the run has made so many steps."""

    def __init__(self, step: int):
        self.step = step
        self.trainer: Trainer | None = None

    @property
    def name(self) -> str | None:  # type: ignore[override]
        return "SIGTERM" if self.trainer is not None and self.trainer.state.step >= self.step else None


def start(prepared: Prepared, folder: Path, stop_before: int | None = None) -> Trainer:
    stop = StopBefore(STEPS + 1 if stop_before is None else stop_before)
    trainer = trainer_of(prepared, folder, stop)
    stop.trainer = trainer
    store = CheckpointStore(folder / "checkpoints", keep=2)
    checkpoint = store.newest_good(print) if store.folder.exists() else None
    if checkpoint is not None:
        trainer.resume(checkpoint)
    return trainer


def depths(trainer: Trainer) -> list[int]:
    """How many parameters train at each step, noted while it trains."""
    noted: list[int] = []
    real = trainer._train_one_step

    def train_one_step() -> None:
        noted.append(sum(weight.requires_grad for weight in trainer.composite.parameters()))
        real()

    trainer._train_one_step = train_one_step  # type: ignore[method-assign]
    return noted


def files_of(folder: Path) -> dict[str, str]:
    last = folder / f"checkpoints/step-{STEPS:06d}"
    names = sorted(path.name for path in last.glob("*.safetensors"))
    state = json.loads((last / "state.json").read_text())
    kept = {name: sha_of(last / name) for name in names}
    return kept | {"metrics": sha_of(folder / "metrics.jsonl"), "parts": json.dumps(state["parts"], sort_keys=True)}


@pytest.mark.parametrize("policy", POLICIES)
def test_stopped_at_every_change_and_resumed_equals_unstopped(policy: str, rows: list[str], tmp_path: Path) -> None:
    prepared = prepared_of(*TINY, *rows, *WORDS, *POLICIES[policy])
    whole = start(prepared, tmp_path / "whole")
    seen = depths(whole)
    whole.fit()
    changes = [step for step in range(1, STEPS) if seen[step] != seen[step - 1]]
    assert len(changes) >= (1 if policy == "probe_then_tune" else 3 if policy != "converging" else 1), seen
    expected = files_of(tmp_path / "whole")
    if policy == "converging":
        assert seen == sorted(seen, reverse=True)
        assert "freeze_policy.safetensors" in expected
    again: list[int] = []
    for stop in [*changes, changes[0] + 1, None]:
        trainer = start(prepared, tmp_path / "run", stop)
        if stop is not None and trainer.state.step >= stop:
            continue
        noted = depths(trainer)
        if stop is None:
            trainer.fit()
        else:
            with pytest.raises(Stopped):
                trainer.fit()
        again += noted
    assert again == seen
    assert files_of(tmp_path / "run") == expected


def test_settling_freezes_from_the_bottom_and_says_so(rows: list[str], tmp_path: Path) -> None:
    prepared = prepared_of(*TINY, *rows, *WORDS, *POLICIES["converging"], "freeze_policy.percentile=100")
    trainer = start(prepared, tmp_path / "run")
    said: list[str] = []
    trainer.freezing.policy.say = said.append
    trainer.fit()
    policy, layers = trainer.freezing.policy, trainer.freezing.layers
    assert said
    assert said[0].startswith("step 4: embeddings")
    frozen = set(policy.frozen_at)
    assert frozen == set(layers.order[: policy.depth])
    assert policy.depth == policy.most == 4  # embeddings and three of four layers: one is kept
    assert trainer.freezing.untouched.prove() == 0


@pytest.mark.dist
@pytest.mark.parametrize("policy", ["gradual", "converging"])
def test_two_processes_equal_one_over_a_change(
    policy: str, rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    from llmtune.cli import main

    monkeypatch.chdir(tmp_path)
    words = [*TINY, *rows, *WORDS, *POLICIES[policy], "model.dropout=0"]
    assert main(["train", *words, "run.dir=one"]) == 0
    assert main(["train", *words, "run.dir=two", "hardware.processes=2"]) == 0
    last = f"checkpoints/step-{STEPS:06d}"
    one, two = (load_file(tmp_path / name / last / "model.safetensors") for name in ("one", "two"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-6
    assert torch.isfinite(one["model.classifier.weight"]).all()
    if policy == "converging":
        frozen = [json.loads((tmp_path / name / last / "state.json").read_text())["parts"]["freeze_policy"]["frozen_at"]
                  for name in ("one", "two")]  # fmt: skip
        assert frozen[0] == frozen[1] != {}

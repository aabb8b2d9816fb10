"""What never trains is stored once: checkpoints hold the rest, and a run that was stopped is the one that was not."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llmtune.core.errors import Stopped
from llmtune.finish import finish
from llmtune.run.checkpoint import CheckpointStore
from llmtune.run.console import Console
from llmtune.run.rundir import RunDir
from llmtune.training.trainer import Trainer
from tests.parity.test_resume_optimizers import files_of, stop_after
from tests.tiny import TINY, prepared_of, trainer_of, write_rows

STEPS = 8
CLOCKS = ("train.batch_rows=9", "train.micro_rows=4", "train.eval_every=3", "train.save_every=2",
          "model.architecture.num_hidden_layers=3", "optimizer.weight_decay=0.1")  # fmt: skip
RUNS = {
    "head": "freeze_policy=head_only train.ema=0.9",
    "LoRA": "adapter=lora",
    "LoRA, averaged at the end": "adapter=lora train.swa=0.5",
    "AdaLoRA": "adapter=adalora adapter.every=1",
    "prompts": "adapter=prompt optimizer=schedule_free_adamw",
    "top layers": "freeze_policy=top_layers freeze_policy.layers=1 optimizer=muon",
    "a schedule that never comes to the bottom": "freeze_policy=gradual freeze_policy.every=3",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def opened(rows: list[str], words: str, folder: Path, *, steps: int = STEPS) -> Trainer:
    """A trainer that stands where `folder` does."""
    prepared = prepared_of(*TINY, *rows, *CLOCKS, *words.split(), f"train.max_steps={steps}")
    trainer = trainer_of(prepared, folder)
    checkpoint = CheckpointStore(folder / "checkpoints", keep=1).newest_good(print)
    trainer.resume(checkpoint)
    return trainer


def stopped(trainer: Trainer, step: int) -> None:
    stop_after(trainer, step)
    with pytest.raises(Stopped):
        trainer.fit()


def everything(folder: Path) -> dict[str, Any]:
    """Hashes of the last checkpoints, and the names of the files that they share, which are their hashes."""
    return {**files_of(folder), "frozen": sorted(path.name for path in (folder / "checkpoints").glob("frozen-*"))}


def own(folder: Path, kind: str) -> set[str]:
    """Names of the tensors that each checkpoint of a kind holds itself."""
    each = [set(load_file(path / "model.safetensors")) for path in (folder / "checkpoints").glob(f"{kind}-*")]
    assert each
    assert all(names == each[0] for names in each)
    return each[0]


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_stopped_and_resumed_equals_unstopped(words: str, rows: list[str], tmp_path: Path) -> None:
    trainer = opened(rows, words, tmp_path / "unstopped")
    trained: set[str] = set()
    real = trainer._train_one_step

    def train_one_step() -> None:
        trained.update(name for name, weight in trainer.composite.named_parameters() if weight.requires_grad)
        real()

    trainer._train_one_step = train_one_step  # type: ignore[method-assign]
    trainer.fit()
    buffers = {name for name in trainer._weights() if name not in dict(trainer.composite.named_parameters())}
    counted = trainer.freezing.layers.fixed & trainer.freezing.layers.adapters
    assert own(tmp_path / "unstopped", "step") == own(tmp_path / "unstopped", "best") == trained | buffers | counted

    stopped(opened(rows, words, tmp_path / "first"), 3)
    shutil.copytree(tmp_path / "first", tmp_path / "run")
    shutil.rmtree(tmp_path / "first")
    torch.manual_seed(5)
    stopped(opened(rows, words, tmp_path / "run"), 5)
    opened(rows, words, tmp_path / "run").fit()
    assert everything(tmp_path / "run") == everything(tmp_path / "unstopped")
    assert len(everything(tmp_path / "run")["frozen"]) == 1


def test_a_longer_run_may_train_what_a_shorter_one_did_not(rows: list[str], tmp_path: Path) -> None:
    words = "freeze_policy=gradual freeze_policy.every=3"
    opened(rows, words, tmp_path / "one", steps=5).fit()
    few = own(tmp_path / "one", "step")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one = opened(rows, words, tmp_path / "one", steps=16)
    one.fit()
    stopped(opened(rows, words, tmp_path / "two", steps=16), 7)
    two = opened(rows, words, tmp_path / "two", steps=16)
    two.fit()
    assert everything(tmp_path / "one") == everything(tmp_path / "two")
    last = load_file(tmp_path / "one" / "checkpoints" / "step-000016" / "model.safetensors")
    assert few < set(last)
    assert set(last) == set(two._weights())


def test_the_best_of_a_shorter_run_is_whole_after_what_was_frozen_has_trained(rows: list[str], tmp_path: Path) -> None:
    words = "freeze_policy=gradual freeze_policy.every=3"
    first = opened(rows, words, tmp_path / "run", steps=5)
    first.fit()
    best = first.state.best_step
    assert best is not None
    kept = CheckpointStore(tmp_path / "run" / "checkpoints", keep=1).best(best).tensors("model")
    trainer = opened(rows, words, tmp_path / "run", steps=16)
    trainer.state.best_score = 2.0  # nothing will be better
    trainer.fit()
    assert trainer.state.best_step == best
    assert any(not torch.equal(value, kept[name]) for name, value in trainer._weights().items())
    trainer.load_best(CheckpointStore(tmp_path / "run" / "checkpoints", keep=1).best(best))
    assert all(torch.equal(value, kept[name]) for name, value in trainer._weights().items())


class Whimsical:
    """A policy of somebody else's: what it saw decides, and it tells nobody."""

    changes = True

    def __init__(self, rounds: int):
        self.rounds = rounds
        self.steps = 0

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        return layers.trainable_at("head") if self.steps < self.rounds else layers.trainable_at("layer 1")

    def follow(self, step: int, result: Any) -> None:
        self.steps += 1

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"steps": self.steps}

    def load_state(self, tensors: Any, plain: Any) -> None:
        self.steps = plain["steps"]


def test_what_nobody_could_foresee_is_in_checkpoints_all_the_same(rows: list[str], tmp_path: Path) -> None:
    def whimsical(folder: Path) -> Trainer:
        prepared = prepared_of(*TINY, *rows, *CLOCKS, "freeze_policy=converging", f"train.max_steps={STEPS}")
        settings = SimpleNamespace(name="whimsical", build=lambda parts: Whimsical(3))
        object.__setattr__(prepared.config, "freeze_policy", settings)
        trainer = trainer_of(prepared, folder)
        trainer.resume(CheckpointStore(folder / "checkpoints", keep=1).newest_good(print))
        return trainer

    whimsical(tmp_path / "unstopped").fit()
    stopped(whimsical(tmp_path / "run"), 2)
    assert not any(".layer.1." in name for name in own(tmp_path / "run", "step"))
    stopped(whimsical(tmp_path / "run"), 6)
    whimsical(tmp_path / "run").fit()
    assert everything(tmp_path / "run") == everything(tmp_path / "unstopped")
    last = load_file(tmp_path / "run" / "checkpoints" / f"step-{STEPS:06d}" / "model.safetensors")
    assert any("classifier" in name for name in last)
    assert any(".layer.1." in name for name in last)
    assert not any(".layer.0." in name for name in last)


def table_of(trainer: Trainer) -> Any:
    return trainer.composite.model.bert.embeddings.word_embeddings  # type: ignore[union-attr]


def test_buffers_that_count_are_in_every_checkpoint(rows: list[str], tmp_path: Path) -> None:
    def counting(folder: Path) -> Trainer:
        prepared = prepared_of(*TINY, *rows, *CLOCKS, "freeze_policy=head_only", f"train.max_steps={STEPS}")
        trainer = trainer_of(prepared, folder)
        table = table_of(trainer)
        table.register_buffer("passes", torch.zeros(()))
        table.register_forward_hook(lambda module, given, made: module.passes.add_(1) and None)
        trainer.resume(CheckpointStore(folder / "checkpoints", keep=1).newest_good(print))
        return trainer

    trainer = counting(tmp_path / "run")
    stopped(trainer, 4)
    assert table_of(counting(tmp_path / "run")).passes.item() == table_of(trainer).passes.item() > 0
    assert any(name.endswith("passes") for name in own(tmp_path / "run", "step"))


def test_a_finished_run_gives_away_the_whole_of_its_best_model(rows: list[str], tmp_path: Path) -> None:
    prepared = prepared_of(*TINY, *rows, *CLOCKS, "freeze_policy=top_layers", "freeze_policy.layers=1",
                           f"train.max_steps={STEPS}", "train.verify_model=here")  # fmt: skip
    trainer = trainer_of(prepared, tmp_path / "run")
    before = {name: value.detach().clone() for name, value in trainer._weights().items()}
    trainer.fit()
    result = finish(trainer, prepared, RunDir(tmp_path / "run"), Console(quiet=True))
    assert result["frozen_unchanged"] is True
    assert result["eval_seconds"] == round(trainer.state.eval_seconds, 3)
    model = load_file(tmp_path / "run" / "model" / "model.safetensors")
    table = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(model[table], before[f"model.{table}"])

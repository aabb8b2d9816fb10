"""Whole runs with frozen parts: nothing moves them, and the end of the run proves it or fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.core.errors import LlmtuneError, Stopped
from llmtune.finish import finish
from llmtune.run.checkpoint import CheckpointStore
from llmtune.run.console import Console
from llmtune.run.rundir import RunDir
from llmtune.run.signals import StopRequest
from llmtune.training.trainer import Trainer
from tests.tiny import TINY, prepared_of, trainer_of, write_rows

WORDS = ("train.batch_rows=9", "optimizer.weight_decay=0.1", "train.eval_every=10")
FROZEN_BERT = 5 + 16
"""tensors of the embeddings and of one layer"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def finished(trainer: Trainer, prepared: Any, folder: Path) -> dict[str, Any]:
    return finish(trainer, prepared, RunDir(folder), Console(quiet=True))


@pytest.mark.parametrize("average", ["train.ema=0.9", "train.ema=null"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion", "muon"])
def test_neither_decay_nor_averages_move_what_is_frozen(
    optimizer: str, average: str, rows: list[str], tmp_path: Path
) -> None:
    words = (f"optimizer={optimizer}", *WORDS, average, "train.max_steps=50", "optimizer.lr=0.003")
    policy = ("freeze_policy=bottom_layers", "freeze_policy.layers=1")
    prepared = prepared_of(*TINY, *rows, *words, *policy)
    trainer = trainer_of(prepared, tmp_path / "run")
    with torch.no_grad():
        trainer.composite.model.bert.embeddings.word_embeddings.weight[7] = -0.0  # whose sign a lerp would lose
    before = {name: weight.detach().clone() for name, weight in trainer.composite.named_parameters()}
    trainer.fit()
    result = finished(trainer, prepared, tmp_path / "run")
    assert (result["frozen_tensors"], result["frozen_unchanged"]) == (FROZEN_BERT, True)
    for name, weight in trainer.composite.named_parameters():
        frozen = trainer.freezing.layers.places[name] in ("embeddings", "layer 0")
        assert torch.equal(before[name], weight.cpu()) == frozen, name


def test_a_run_that_freezes_nothing_claims_nothing(rows: list[str], tmp_path: Path) -> None:
    prepared = prepared_of(*TINY, *rows, *WORDS, "train.max_steps=2")
    trainer = trainer_of(prepared, tmp_path / "run")
    trainer.fit()
    result = finished(trainer, prepared, tmp_path / "run")
    assert (result["frozen_tensors"], result["frozen_unchanged"]) == (0, None)


@pytest.mark.parametrize("stop_after", [None, 3])
def test_a_frozen_tensor_that_moved_fails_the_run(stop_after: int | None, rows: list[str], tmp_path: Path) -> None:
    prepared = prepared_of(*TINY, *rows, *WORDS, "train.max_steps=6", "freeze_policy=head_only")
    stop = StopRequest()
    trainer = trainer_of(prepared, tmp_path / "run", stop)
    if stop_after is not None:
        real = trainer._train_one_step

        def train_one_step() -> None:
            real()
            stop.name = "SIGTERM" if trainer.state.step == stop_after else None

        trainer._train_one_step = train_one_step  # type: ignore[method-assign]
        with pytest.raises(Stopped):
            trainer.fit()
        trainer = trainer_of(prepared, tmp_path / "run")
        trainer.resume(CheckpointStore(tmp_path / "run/checkpoints", keep=1).newest_good(print))
        assert trainer.state.step == stop_after
    else:
        trainer.fit()
        trainer.state.best_step = None  # keep the last weights, not those on the disk
    with torch.no_grad():
        trainer.composite.model.bert.embeddings.word_embeddings.weight[3, 3] += 1e-3
    trainer.fit()  # what is left of it: nothing, where it was not stopped
    with pytest.raises(LlmtuneError, match=r"1 of \d+ frozen tensors are not .*: model\.bert\.embeddings\.word_emb"):
        finished(trainer, prepared, tmp_path / "run")
    assert not (tmp_path / "run/model").exists()
    assert not (tmp_path / "run/result.json").exists()


def test_checkpoints_of_activations_let_no_gradient_below(rows: list[str], tmp_path: Path) -> None:
    words = ("train.gradient_checkpointing=true", "freeze_policy=top_layers", "freeze_policy.layers=1")
    prepared = prepared_of(*TINY, *rows, *WORDS, *words)
    trainer = trainer_of(prepared, tmp_path / "run")
    bert = trainer.composite.model.bert
    seen: list[bool] = []
    for module in (bert.embeddings, bert.encoder.layer[0], bert.encoder.layer[1]):
        module.register_forward_hook(
            lambda module, args, out: seen.append((out[0] if isinstance(out, tuple) else out).requires_grad)
        )
    trainer.stepper.run(0, trainer.feed.at(0), 1e-3, lambda: False)
    assert seen[:3] == [False, False, True]


def test_rows_that_reach_nothing_that_trains_are_passed_over(rows: list[str], tmp_path: Path) -> None:
    """GPT-2's language-model head is its table of words: under a linear probe it has nothing to learn."""
    words = (
        "model=tiny_gpt2", "objective=[supervised,causal_lm]", "objective.causal_lm.rows=builtin:tales/validation.txt",
        "freeze_policy=head_only", "train.max_steps=2",
    )  # fmt: skip
    trainer = trainer_of(prepared_of(*TINY, *WORDS, *rows, *words), tmp_path)
    before = {name: value.detach().clone() for name, value in trainer.composite.named_parameters()}
    trainer.fit()
    moved = {name for name, value in trainer.composite.named_parameters() if not torch.equal(value, before[name])}
    assert moved == trainer.freezing.trainable


def test_what_no_objective_reads_is_not_counted_as_trained(rows: list[str], tmp_path: Path) -> None:
    """Mean pooling passes BERT's pooler by."""
    trainer = trainer_of(prepared_of(*TINY, *rows, *WORDS, "task.pooling=mean", "train.max_steps=2"), tmp_path / "run")
    sizes = {name: weight.numel() for name, weight in trainer.composite.named_parameters()}
    pooler = sum(size for name, size in sizes.items() if "pooler" in name)
    assert pooler
    assert sum(trained for _, _, trained in trainer.freezing.counts()) == sum(sizes.values()) - pooler

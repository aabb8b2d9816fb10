"""A run that was stopped and gone on with is, file by file, the run that was not."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from llmtune.core.errors import Stopped
from llmtune.preflight import Prepared
from llmtune.run.checkpoint import CheckpointStore
from llmtune.run.signals import StopRequest
from llmtune.training.trainer import Trainer
from tests.tiny import TINY, prepared_of, sha_of, trainer_of, write_rows

EPOCHS, ROWS, BATCH = 3, 60, 9
STEPS_PER_EPOCH = 7
CLOCKS = ("train.eval_every=4", "train.save_every=5", "train.keep=2", "train.log_every=3")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    words = write_rows(tmp_path_factory.mktemp("rows"), rows=ROWS)
    return prepared_of(
        *TINY, *words, f"train.batch_rows={BATCH}", "train.micro_rows=4", f"train.epochs={EPOCHS}", *CLOCKS[:3],
        CLOCKS[3], "train.ema=0.9",
    )  # fmt: skip


@pytest.fixture(scope="module")
def unstopped(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unstopped"
    trainer_of(prepared, folder).fit()
    return folder


class StopAt(StopRequest):
    """Asks for a stop at the n-th time that somebody looks: inside a step, between steps, in an evaluation."""

    def __init__(self, looks: int):
        self.left = looks

    @property
    def name(self) -> str | None:  # type: ignore[override]
        self.left -= 1
        return "SIGTERM" if self.left < 0 else None


def resume(prepared: Prepared, folder: Path, stop: StopRequest | None = None) -> Trainer:
    trainer = trainer_of(prepared, folder, stop)
    checkpoint = CheckpointStore(folder / "checkpoints", keep=2).newest_good(print)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    return trainer


def files_of(folder: Path) -> dict[str, str]:
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    names = [last / f"{name}.safetensors" for name in ("model", "optimizer", "ema")]
    return {path.name: sha_of(path) for path in [*names, folder / "metrics.jsonl"]}


def test_num_steps_is_the_plan(prepared: Prepared) -> None:
    assert prepared.order.steps_per_epoch == STEPS_PER_EPOCH
    assert prepared.num_steps == EPOCHS * STEPS_PER_EPOCH


@pytest.mark.parametrize("looks", sorted(random.Random(7).sample(range(1, 100), 20)))
def test_stopped_and_resumed_equals_unstopped(looks: int, prepared: Prepared, unstopped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        trainer_of(prepared, folder, StopAt(looks)).fit()
    resume(prepared, folder).fit()
    assert files_of(folder) == files_of(unstopped)


def test_seconds_of_training_and_of_evaluations_count_over_all_starts(prepared: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = trainer_of(prepared, folder, StopAt(60))
    with pytest.raises(Stopped):
        first.fit()
    assert first.state.evaluated_step
    again = resume(prepared, folder)
    assert again.state.seconds == first.state.seconds > 0
    assert again.state.eval_seconds == first.state.eval_seconds > 0
    again.fit()
    assert again.state.seconds > first.state.seconds
    assert again.state.eval_seconds > first.state.eval_seconds


def test_stopped_many_times_equals_unstopped(prepared: Prepared, unstopped: Path, tmp_path: Path) -> None:
    folder, stops = tmp_path / "run", 0
    while True:
        try:
            resume(prepared, folder, StopAt(11)).fit()
            break
        except Stopped:
            stops += 1
    assert stops > 3
    assert files_of(folder) == files_of(unstopped)


def test_a_killed_run_goes_back_to_the_last_save(prepared: Prepared, unstopped: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def die_at(step: int, trainer: Trainer) -> Callable[[], None]:
        real = trainer._train_one_step

        def train_one_step() -> None:
            if trainer.state.step == step:
                raise Killed
            real()

        return train_one_step

    folder = tmp_path / "run"
    trainer = trainer_of(prepared, folder)
    trainer._train_one_step = die_at(13, trainer)  # type: ignore[method-assign]
    with pytest.raises(Killed):
        trainer.fit()
    assert resume(prepared, folder).state.step == 10
    resume(prepared, folder).fit()
    assert files_of(folder) == files_of(unstopped)

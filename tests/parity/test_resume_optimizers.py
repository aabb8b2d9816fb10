"""With every optimizer and every average: stopped after 3 of 6 steps and gone on with is the run that was not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmtune.config.locate import conf_dir, option_files
from llmtune.core.errors import ConfigError, Stopped
from llmtune.preflight import Prepared
from llmtune.run.checkpoint import CheckpointStore
from llmtune.training.trainer import Trainer
from tests.tiny import TINY, prepared_of, sha_of, trainer_of, write_rows

NAMES = ("model", "optimizer", "ema")
OPTIMIZERS = [f"optimizer={name}" for name in option_files("optimizer", [conf_dir()])]
OTHERS = [
    "optimizer=adafactor optimizer.momentum=0.9 optimizer.scale_parameter=true", "optimizer=sgd optimizer.momentum=0",
    "train.swa=0.3", "train.swa=0.9", "train.ema=0.9 freeze_policy=head_only",
    "train.grad_noise=0.1 train.clip_value=0.01",
]  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"), rows=24)


def prepared_with(rows: list[str], words: str) -> Prepared:
    return prepared_of(
        *TINY, *rows, "train.batch_rows=8", "train.micro_rows=4", "train.max_steps=6", "train.eval_every=2",
        "train.save_every=null", "optimizer.layer_decay=0.9", *words.split(),
    )  # fmt: skip


def stop_after(trainer: Trainer, step: int) -> None:
    """Let the trainer be asked to stop when `step` steps are done."""
    trainer.should_stop = lambda: "SIGTERM" if trainer.state.step >= step else None


def files_of(folder: Path) -> dict[str, str]:
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    best = sorted((folder / "checkpoints").glob("best-*"))[-1]
    names = [last / f"{name}.safetensors" for name in NAMES] + [best / "model.safetensors", folder / "metrics.jsonl"]
    return {str(path.relative_to(folder)): sha_of(path) for path in names if path.exists()}


@pytest.mark.parametrize("words", OPTIMIZERS + OTHERS)
def test_stopped_and_resumed_equals_unstopped(words: str, rows: list[str], tmp_path: Path) -> None:
    try:
        prepared = prepared_with(rows, words)
    except ConfigError as error:
        pytest.skip(str(error))  # what this machine has not: the refusal is tested with the optimizer
    trainer_of(prepared, tmp_path / "unstopped").fit()
    stopped = trainer_of(prepared, tmp_path / "stopped")
    stop_after(stopped, 3)
    with pytest.raises(Stopped):
        stopped.fit()
    torch.manual_seed(5)
    again = trainer_of(prepared, tmp_path / "stopped")
    checkpoint = CheckpointStore(tmp_path / "stopped" / "checkpoints", keep=1).newest_good(print)
    assert checkpoint is not None
    assert checkpoint.step == 3
    again.resume(checkpoint)
    again.fit()
    found = files_of(tmp_path / "stopped")
    assert found == files_of(tmp_path / "unstopped")
    assert len(found) >= 3

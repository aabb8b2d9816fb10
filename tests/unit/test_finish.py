"""What a run leaves at its end, and that the end can be interrupted anywhere and made good by resume."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmtune import finish as finishing
from llmtune.core.errors import Stopped
from llmtune.finish import finish
from llmtune.inference import verify
from llmtune.preflight import Prepared
from llmtune.run.checkpoint import CheckpointStore, SaveFailed
from llmtune.run.console import Console
from llmtune.run.rundir import RunDir
from llmtune.run.signals import StopRequest
from llmtune.training.trainer import Trainer
from tests.tiny import TINY, prepared_of, trainer_of, write_rows


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    rows = write_rows(tmp_path_factory.mktemp("rows"))
    return prepared_of(*TINY, *rows, "train.batch_rows=10", "train.max_steps=4", "train.eval_every=1")


def trained(prepared: Prepared, folder: Path, stop: StopRequest | None = None) -> Trainer:
    trainer = trainer_of(prepared, folder, stop)
    store = CheckpointStore(folder / "checkpoints", keep=1)
    trainer.resume(store.newest_good(print))
    trainer.fit()
    return trainer


def finished(trainer: Trainer, prepared: Prepared, folder: Path) -> dict[str, Any]:
    return finish(trainer, prepared, RunDir(folder), Console(quiet=True))


def facts(result: dict[str, Any]) -> dict[str, Any]:
    clocks = ("train_seconds", "eval_seconds", "tokens_per_second", "peak_memory_bytes")
    return {key: value for key, value in result.items() if key not in clocks}


def without_test(prepared: Prepared) -> Prepared:
    import dataclasses

    return dataclasses.replace(prepared, splits={k: v for k, v in prepared.splits.items() if k != "test"})


@pytest.mark.parametrize("has_test", [True, False])
def test_a_stop_at_the_end_is_made_good_by_resume(has_test: bool, prepared: Prepared, tmp_path: Path) -> None:
    prepared = prepared if has_test else without_test(prepared)
    whole = facts(finished(trained(prepared, tmp_path / "whole"), prepared, tmp_path / "whole"))
    stop = StopRequest()
    trainer = trained(prepared, tmp_path / "run", stop)
    stop.name = "SIGTERM"
    with pytest.raises(Stopped, match=r"SIGTERM after training; everything is saved"):
        finished(trainer, prepared, tmp_path / "run")
    again = trained(prepared, tmp_path / "run")
    assert facts(finished(again, prepared, tmp_path / "run")) == whole
    for name in ("predictions.jsonl", "model/model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len((tmp_path / "run/predictions.jsonl").read_text().splitlines()) == (12 if has_test else 14)


def test_a_stop_ends_the_proof_and_is_no_fault_of_the_model(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    train = dataclasses.replace(prepared.config.train, verify_model="process")
    prepared = dataclasses.replace(prepared, config=dataclasses.replace(prepared.config, train=train))
    children = []

    def start(folder: Path, expected: Any) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", "import time; time.sleep(60)"]
        children.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return children[0]

    stop = StopRequest()
    monkeypatch.setattr(verify, "start", start)
    monkeypatch.setattr(finishing, "write_predictions", lambda *_: setattr(stop, "name", "SIGINT"))
    with pytest.raises(Stopped, match="SIGINT"):
        finished(trained(prepared, tmp_path, stop), prepared, tmp_path)
    assert children[0].wait(timeout=10)
    for stream in (children[0].stdout, children[0].stderr):
        assert stream is not None
        stream.close()
    assert not (tmp_path / "result.json").exists()


def test_a_full_disk_leaves_the_model_that_was_there(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trained(prepared, tmp_path)
    finished(trainer, prepared, tmp_path)
    (tmp_path / ".model.old").mkdir()  # a start was killed here
    (tmp_path / ".model.old/some").touch()
    before = (tmp_path / "model/model.safetensors").stat().st_mtime_ns

    def no_room(folder: Path) -> None:
        folder.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(trainer.composite.model, "save_pretrained", no_room)
        with pytest.raises(SaveFailed, match=r"model: could not be saved: .*No space left.*resume=auto"):
            finished(trainer, prepared, tmp_path)
    assert (tmp_path / "model/model.safetensors").stat().st_mtime_ns == before
    assert not list(tmp_path.glob(".model*"))
    finished(trainer, prepared, tmp_path)
    assert (tmp_path / "model/model.safetensors").stat().st_mtime_ns > before


def test_a_metric_that_is_never_defined_keeps_the_last_weights(tmp_path: Path) -> None:
    for split, scores in (("train", [0.1, 0.5, 0.75, 0.3]), ("validation", [0.5, 0.5])):
        lines = [json.dumps({"text": f"a film of {number}", "label": score}) for number, score in enumerate(scores)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    files = [f"data.{split}={tmp_path / split}.jsonl" for split in ("train", "validation")]
    prepared = prepared_of(*TINY, *files, "data.test_share=0", "train.batch_rows=2", "train.epochs=3")
    trainer = trained(prepared, tmp_path / "run")
    result = finished(trainer, prepared, tmp_path / "run")
    assert result["best"] == {"step": None, "score": None}
    assert result["steps"] == 6
    assert set(result["validation"]) == {"loss", "mae", "mse"}
    assert json.loads((tmp_path / "run/model/llmtune.json").read_text())["step"] == 6
    assert len((tmp_path / "run/predictions.jsonl").read_text().splitlines()) == 2

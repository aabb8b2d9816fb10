"""A checkpoint is there whole or not at all; what is damaged is passed over by name; a failed save harms nothing."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.core.errors import ResumeError
from llmtune.run import checkpoint
from llmtune.run.checkpoint import CheckpointStore, SaveFailed, verify


def save(store: CheckpointStore, step: int, *, best: int | None = None) -> Path:
    state = {"train_state": {"step": step, "best_step": best}}
    return store.save("step", step, {"model": {"w": torch.full((64,), float(step))}}, state)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    store.open()
    save(store, 10)
    save(store, 20)
    return store


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda path: os.truncate(path / "model.safetensors", 100), "has 100 bytes instead of"),
    "altered": (lambda path: flip(path / "model.safetensors"), "was altered"),
    "missing": (lambda path: (path / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no state": (lambda path: (path / "state.json").unlink(), "state.json is missing"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
    "manifest cut": (lambda path: os.truncate(path / "manifest.json", 9), "manifest.json can't be read"),
    "other format": (lambda path: (path / "manifest.json").write_text('{"format": 99, "files": {}}'), "format 99"),
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 255
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_is_named_and_passed_over(damage: str, store: CheckpointStore) -> None:
    harm, words = DAMAGES[damage]
    harm(store.folder / "step-000020")
    said: list[str] = []
    good = store.newest_good(said.append)
    assert good is not None
    assert good.step == 10
    assert torch.equal(good.tensors("model")["w"], torch.full((64,), 10.0))
    assert len(said) == 1
    assert said[0].startswith("checkpoint step-000020 is passed over: ")
    assert words in said[0]


def test_none_whole_is_refused_with_every_reason(store: CheckpointStore) -> None:
    for path in store.folder.iterdir():
        (path / "state.json").unlink()
    with pytest.raises(ResumeError) as caught:
        store.newest_good(lambda line: None)
    assert str(caught.value).count("state.json is missing") == 2


def test_a_state_whose_best_model_is_gone_is_passed_over(store: CheckpointStore) -> None:
    store.save("best", 25, {"model": {"w": torch.zeros(2)}}, {"scores": {}})
    save(store, 30, best=25)
    (store.folder / "best-000025" / "model.safetensors").unlink()
    said: list[str] = []
    good = store.newest_good(said.append)
    assert good is not None
    assert good.step == 20
    assert "best-000025: model.safetensors is missing" in said[0]


def test_damaged_step_is_replaced_when_the_run_comes_by_again(store: CheckpointStore) -> None:
    (store.folder / "step-000020" / "model.safetensors").unlink()
    save(store, 20)
    assert verify(store.folder / "step-000020") is None


def test_prune_keeps_states_and_the_best_they_speak_of(store: CheckpointStore) -> None:
    for step in (15, 18, 25):
        store.save("best", step, {"model": {"w": torch.zeros(2)}}, {"scores": {}})
    save(store, 20, best=18)
    save(store, 30, best=25)
    store.prune(best_step=25)
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "best-000018", "best-000025", "step-000020", "step-000030"
    ]  # fmt: skip


class Full:
    """A writer that fails as a full disk does, after some bytes."""

    def __init__(self, reason: int):
        self.reason = reason

    def __call__(self, tensors: Any, path: Path) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(self.reason, os.strerror(self.reason))


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_failed_save_says_why_and_leaves_the_rest(
    reason: int, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safetensors.torch.save_file", Full(reason))
    with pytest.raises(SaveFailed, match=os.strerror(reason)) as caught:
        save(store, 30)
    assert "resume=auto" in str(caught.value)
    assert sorted(path.name for path in store.folder.iterdir()) == ["step-000010", "step-000020"]
    good = store.newest_good(print)
    assert good is not None
    assert good.step == 20


@pytest.mark.parametrize("broken", ["write_json", "fsync_dir"])
def test_failure_at_any_later_write_leaves_the_rest(
    broken: str, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, broken, fail)
    with pytest.raises(SaveFailed):
        save(store, 30)
    good = store.newest_good(print)
    assert good is not None
    assert good.step == 20


def test_open_sweeps_up_what_a_kill_left(store: CheckpointStore) -> None:
    left = store.folder / ".step-000030.123"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    store.open()
    assert not left.exists()
    assert verify(store.folder / "step-000020") is None


def test_state_is_readable_by_eye(store: CheckpointStore) -> None:
    state = json.loads((store.folder / "step-000020" / "state.json").read_text())
    assert state["train_state"] == {"step": 20, "best_step": None}

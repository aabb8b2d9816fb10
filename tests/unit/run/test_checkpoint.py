"""A checkpoint is there whole or not at all; what is damaged is passed over by name; a failed save harms nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
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


# ---- what never trains ----

BIG = torch.arange(500.0)


def save_part(store: CheckpointStore, step: int, *, kind: str = "step", frozen: tuple[str, ...] = ("big",)) -> Path:
    model = {"w": torch.full((8,), float(step)), "big": BIG, "seen": torch.tensor(step)}
    state = {"train_state": {"step": step, "best_step": None}} if kind == "step" else {"scores": {}}
    return store.save(kind, step, {"model": model, "optimizer": {"w|m": torch.ones(8)}}, state, frozen)


@pytest.fixture
def sparing(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    store.open()
    for step in (10, 20):
        save_part(store, step, kind="best")
        save_part(store, step)
    return store


def frozen_of(store: CheckpointStore) -> list[Path]:
    return sorted(store.folder.glob("frozen-*"))


def whole(store: CheckpointStore, step: int) -> bool:
    good = store.newest_good(print)
    assert good is not None
    model = good.tensors("model")
    return good.step == step and torch.equal(model["big"], BIG) and bool((model["w"] == step).all())


def test_what_never_trains_is_written_once_and_read_with_every_checkpoint(sparing: CheckpointStore) -> None:
    (frozen,) = frozen_of(sparing)
    assert frozen.stat().st_size > BIG.nbytes
    for path in sparing.folder.glob("*-0000*"):
        assert (path / "model.safetensors").stat().st_size < BIG.nbytes / 4
        manifest = json.loads((path / "manifest.json").read_text())
        assert manifest["frozen"]["name"] == frozen.name
        assert manifest["frozen"]["sha256"].startswith(frozen.stem.removeprefix("frozen-"))
    assert whole(sparing, 20)
    assert torch.equal(sparing.best(10).tensors("model")["big"], BIG)
    assert set(sparing.best(10).tensors("optimizer")) == {"w|m"}


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_file_of_what_never_trains_is_named(damage: str, sparing: CheckpointStore) -> None:
    (frozen,) = frozen_of(sparing)
    harm = {"truncated": lambda: os.truncate(frozen, 50), "altered": lambda: flip(frozen), "missing": frozen.unlink}
    harm[damage]()
    words = {"truncated": "has 50 bytes instead of", "altered": "was altered", "missing": "is missing"}
    with pytest.raises(ResumeError) as caught:
        sparing.newest_good(lambda line: None)
    assert str(caught.value).count(f"{frozen.name} {words[damage]}") == 2
    with pytest.raises(ResumeError, match=rf"{frozen.name} {words[damage]}"):
        sparing.best(10)


def test_an_older_checkpoint_with_all_of_the_model_is_taken_instead(store: CheckpointStore) -> None:
    save_part(store, 30)
    (frozen,) = frozen_of(store)
    frozen.unlink()
    said: list[str] = []
    good = store.newest_good(said.append)
    assert good is not None
    assert good.step == 20
    assert said == [f"checkpoint step-000030 is passed over: {frozen.name} is missing"]


def test_a_run_that_goes_on_refers_to_the_file_that_is_there(sparing: CheckpointStore) -> None:
    (frozen,) = frozen_of(sparing)
    before = frozen.stat()
    later = CheckpointStore(sparing.folder, keep=2)
    later.open()
    good = later.newest_good(print)
    assert good is not None
    later.go_on_from(good)
    save_part(later, 30)
    after = frozen.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert whole(later, 30)


def test_what_trains_after_all_is_in_each_checkpoint_from_then_on(sparing: CheckpointStore) -> None:
    good = sparing.newest_good(print)
    assert good is not None
    later = CheckpointStore(sparing.folder, keep=1)
    later.go_on_from(good)
    model = {"w": torch.zeros(8), "big": BIG + 1, "seen": torch.tensor(30)}
    later.save("step", 30, {"model": model}, {"train_state": {"step": 30, "best_step": 20}})
    assert "frozen" not in json.loads((later.folder / "step-000030/manifest.json").read_text())
    newest = later.newest_good(print)
    assert newest is not None
    assert torch.equal(newest.tensors("model")["big"], BIG + 1)
    later.prune(best_step=20)
    assert torch.equal(later.best(20).tensors("model")["big"], BIG)


def test_prune_keeps_what_any_checkpoint_refers_to(sparing: CheckpointStore) -> None:
    (frozen,) = frozen_of(sparing)
    orphan = sparing.folder / "frozen-000000000000.safetensors"
    orphan.write_bytes(b"of a start that died before its first save")
    damaged = sparing.folder / "step-000010" / "manifest.json"
    content = damaged.read_text()
    damaged.write_text("{")
    other = CheckpointStore(sparing.folder, keep=2)
    other.prune(best_step=20)
    assert orphan.exists()  # a manifest that can't be read may speak of it
    damaged.write_text(content)
    other.prune(best_step=20)
    assert frozen_of(sparing) == [frozen]
    other.keep = 0
    other.prune(best_step=20)
    assert [path.name for path in sorted(sparing.folder.iterdir())] == ["best-000020", frozen.name]
    assert torch.equal(other.best(20).tensors("model")["big"], BIG)
    other.prune(best_step=None)
    assert list(sparing.folder.iterdir()) == []


def test_a_copy_of_the_run_elsewhere_is_whole(sparing: CheckpointStore, tmp_path: Path) -> None:
    shutil.copytree(sparing.folder, tmp_path / "elsewhere" / "checkpoints")
    shutil.rmtree(sparing.folder)
    assert whole(CheckpointStore(tmp_path / "elsewhere" / "checkpoints", keep=1), 20)


def moments_of(folder: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Copies of `folder` as SIGKILL would leave it before and after each call that writes, syncs or renames."""
    import safetensors.torch

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            shutil.copytree(folder, into / f"{len(list(into.iterdir())):03d}")
            done = real(*arguments, **more)
            shutil.copytree(folder, into / f"{len(list(into.iterdir())):03d}")
            return done

        return call

    into.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", watched(os.replace))
        patch.setattr(os, "fsync", watched(os.fsync))
        patch.setattr(os, "unlink", watched(os.unlink))
        patch.setattr(safetensors.torch, "save_file", watched(safetensors.torch.save_file))
        store = CheckpointStore(folder, keep=1)
        store.open()
        for step in (10, 20):
            save_part(store, step, kind="best")
            save_part(store, step)
            store.prune(best_step=step)
    yield from sorted(into.iterdir())


def test_a_kill_at_any_moment_leaves_whole_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    for left in moments_of(tmp_path / "checkpoints", tmp_path / "moments", monkeypatch):
        said: list[str] = []
        store = CheckpointStore(left, keep=1)
        store.open()
        good = store.newest_good(said.append)
        assert said == []
        if good is not None:
            assert whole(store, good.step)
            store.go_on_from(good)
        steps.append(good.step if good is not None else 0)
        save_part(store, 30)
        store.prune(best_step=None)
        assert whole(store, 30)
        assert [path.name for path in sorted(store.folder.glob("*"))] == [frozen_of(store)[0].name, "step-000030"]
    assert steps == sorted(steps)
    assert set(steps) == {0, 10, 20}
    assert len(steps) > 40

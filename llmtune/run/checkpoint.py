"""Checkpoints: safetensors and JSON in a folder that is there whole or not at all.

    step-000400/    model.safetensors  optimizer.safetensors  ...  state.json  manifest.json
    best-000350/    model.safetensors  state.json  manifest.json
    frozen-3f9a1c20b7de.safetensors

Written aside, fsynced, hashed into `manifest.json`, renamed; read back only if every file still has its hash. Of the
model each holds what can change; what never trains in the run lies beside them once, and each manifest says so.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtune.core.errors import Fault, ResumeError
from llmtune.run.files import SaveFailed, fsync_dir, read_json, write_json
from llmtune.run.tensor_files import FROZEN_FILES, FrozenFile, fault_of, on_disk, read_tensors, write_tensors

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"
MODEL = "model"
FROZEN = "frozen"
"""where a manifest names the file that holds the rest of MODEL"""
TensorFiles = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.path.name.rpartition("-")[2])

    @property
    def frozen(self) -> FrozenFile | None:
        """Where the rest of its model lies; None: it has all of it."""
        return _frozen_of(read_json(self.path / MANIFEST))

    def tensors(self, name: str) -> dict[str, Any]:
        """Tensors by name of one of its files (of MODEL: all), on the CPU; empty if there is no such file."""
        own = read_tensors(self.path / f"{name}.safetensors")
        frozen = self.frozen if name == MODEL else None
        return {**frozen.tensors(self.path.parent), **own} if frozen else own


class CheckpointStore:
    """The folder `checkpoints/` of one run."""

    def __init__(self, folder: Path, *, keep: int):
        self.folder = folder
        self.keep = keep
        self._frozen: FrozenFile | None = None
        self._frozen_names: frozenset[str] = frozenset()

    def open(self) -> None:
        """Make the folder; sweep up what a killed save left behind."""
        self.folder.mkdir(exist_ok=True)
        for left in self.folder.glob(".*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """What was frozen when `checkpoint` was saved is there already."""
        self._frozen = checkpoint.frozen
        if self._frozen is not None:
            self._frozen_names = self._frozen.names(self.folder)

    def save(
        self, kind: str, step: int, tensors: TensorFiles, state: Mapping[str, Any], frozen: Collection[str] = ()
    ) -> Path:
        """Write `<kind>-<step>`; all or nothing.

        Args:
            frozen: names of tensors of MODEL that are what they were when the run began, and will stay so. The first
                save writes them, to a file of their own.

        Raises:
            SaveFailed: with the system's reason; earlier checkpoints are untouched.
        """
        target = self.folder / f"{kind}-{step:06d}"
        aside = self.folder / f".{target.name}.{os.getpid()}"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            self._write(aside, *self._without_frozen(tensors, frozenset(frozen)), state)
            self._put_in_place(aside, target)
        except Exception as error:  # safetensors reports a full disk by an exception of its own
            shutil.rmtree(aside, ignore_errors=True)
            raise SaveFailed(target, error) from error
        return target

    def _without_frozen(self, tensors: TensorFiles, frozen: frozenset[str]) -> tuple[TensorFiles, FrozenFile | None]:
        """What a checkpoint holds itself, and where the rest lies, if there is any."""
        model = tensors.get(MODEL, {})
        frozen &= model.keys()
        if self._frozen is None and frozen:
            self._frozen = FrozenFile.write(self.folder, {name: model[name] for name in model if name in frozen})
            self._frozen_names = frozen
        elsewhere = frozen & self._frozen_names
        own = {name: value for name, value in model.items() if name not in elsewhere}
        return {**tensors, MODEL: own}, self._frozen if elsewhere else None

    def _write(self, aside: Path, tensors: TensorFiles, frozen: FrozenFile | None, state: Mapping[str, Any]) -> None:
        for name, values in tensors.items():
            if values:
                write_tensors(aside / f"{name}.safetensors", values)
        write_json(aside / STATE, {"format": FORMAT, **state})
        manifest: dict[str, Any] = {"format": FORMAT, "files": {}}
        for path in sorted(aside.iterdir()):
            manifest["files"][path.name] = on_disk(path)
        if frozen is not None:
            manifest[FROZEN] = frozen._asdict()
        write_json(aside / MANIFEST, manifest)
        fsync_dir(aside)

    def _put_in_place(self, aside: Path, target: Path) -> None:
        if target.exists():  # a damaged one that this run went back behind
            damaged = self.folder / f".damaged-{target.name}"
            os.replace(target, damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        os.replace(aside, target)
        fsync_dir(self.folder)

    def prune(self, *, best_step: int | None) -> None:
        """Delete states beyond `keep` and best models that neither the run nor a kept state speaks of."""
        states = self._paths("step")
        wanted = {best_step}
        for path in states[: self.keep]:
            wanted.add(_read_state(path).get("train_state", {}).get("best_step"))
        for path in states[self.keep :]:
            shutil.rmtree(path, ignore_errors=True)
        for path in self._paths("best"):
            if int(path.name.rpartition("-")[2]) not in wanted:
                shutil.rmtree(path, ignore_errors=True)
        self._prune_frozen()

    def _prune_frozen(self) -> None:
        """Delete files of frozen tensors that nothing refers to: an earlier start died before its first save."""
        spoken_of = {self._frozen}
        for path in [*self._paths("step"), *self._paths("best")]:
            try:
                spoken_of.add(_frozen_of(read_json(path / MANIFEST)))
            except (OSError, ValueError, TypeError, AttributeError):
                return  # damaged: who knows what it needs
        names = {frozen.name for frozen in spoken_of if frozen is not None}
        for path in self.folder.glob(FROZEN_FILES):
            if path.name not in names:
                path.unlink(missing_ok=True)

    def newest_good(self, say: Callable[[str], None]) -> Checkpoint | None:
        """The newest state that verifies; says which were passed over and why. None: there is none at all.

        Raises:
            ResumeError: there are some, and none is whole.
        """
        faults = []
        seen: dict[FrozenFile, str | None] = {}
        for path in self._paths("step"):
            fault = verify(path, seen) or self._best_is_gone(path, seen)
            if fault is None:
                return Checkpoint(path, _read_state(path))
            say(f"checkpoint {path.name} is passed over: {fault}")
            faults.append(Fault(str(path), fault))
        if faults:
            raise ResumeError(*faults, Fault("resume", "no checkpoint of the run is whole", "start a new run"))
        return None

    def _best_is_gone(self, path: Path, seen: dict[FrozenFile, str | None]) -> str | None:
        best_step = _read_state(path).get("train_state", {}).get("best_step")
        if best_step is None:
            return None
        fault = verify(self.folder / f"best-{best_step:06d}", seen)
        return f"its best model best-{best_step:06d}: {fault}" if fault else None

    def best(self, step: int) -> Checkpoint:
        path = self.folder / f"best-{step:06d}"
        fault = verify(path)
        if fault:
            raise ResumeError(Fault(str(path), fault))
        return Checkpoint(path, _read_state(path))

    def _paths(self, kind: str) -> list[Path]:
        """Folders of a kind, newest first."""
        found = [path for path in self.folder.iterdir() if re.fullmatch(rf"{kind}-\d+", path.name)]
        return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def verify(path: Path, seen: dict[FrozenFile, str | None] | None = None) -> str | None:
    """What is wrong with a checkpoint, or None: every file is there with its size and sha256.

    Args:
        seen: what is wrong with files that several checkpoints share, as far as they were looked at; added to.
    """
    try:
        manifest = read_json(path / MANIFEST)
        files, frozen = manifest["files"], _frozen_of(manifest)
        if manifest["format"] != FORMAT:
            return f"format {manifest['format']}, this version reads {FORMAT}"
    except FileNotFoundError:
        return "manifest.json is missing" if path.is_dir() else "the folder is missing"
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return f"manifest.json can't be read ({error})"
    if STATE not in files:
        return f"{STATE} is missing in its manifest"
    for name, expected in files.items():
        fault = fault_of(path / name, expected)
        if fault:
            return fault
    if frozen is None:
        return None
    seen = {} if seen is None else seen
    if frozen not in seen:
        seen[frozen] = frozen.fault(path.parent)
    return seen[frozen]


def _frozen_of(manifest: dict[str, Any]) -> FrozenFile | None:
    found = manifest.get(FROZEN)
    return FrozenFile(**found) if found else None


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = read_json(path / STATE)
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}

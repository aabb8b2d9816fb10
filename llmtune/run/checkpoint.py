"""Checkpoints: safetensors and JSON in a folder that is there whole or not at all.

    step-000400/    model.safetensors  optimizer.safetensors  ...  state.json  manifest.json
    best-000350/    model.safetensors  state.json  manifest.json

Written aside, fsynced, hashed into `manifest.json`, renamed; read back only if every file still has its hash.
The only file of `run/` that knows torch.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtune.core.errors import Fault, ResumeError
from llmtune.run.files import SaveFailed, fsync_dir, read_json, write_json

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"
TensorFiles = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.path.name.rpartition("-")[2])

    def tensors(self, name: str) -> dict[str, Any]:
        """Tensors by name of one of its files, on the CPU; empty if there is no such file."""
        from safetensors.torch import load_file

        path = self.path / f"{name}.safetensors"
        return load_file(path) if path.exists() else {}


class CheckpointStore:
    """The folder `checkpoints/` of one run."""

    def __init__(self, folder: Path, *, keep: int):
        self.folder = folder
        self.keep = keep

    def open(self) -> None:
        """Make the folder; sweep up what a killed save left behind."""
        self.folder.mkdir(exist_ok=True)
        for left in self.folder.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)

    def save(self, kind: str, step: int, tensors: TensorFiles, state: Mapping[str, Any]) -> Path:
        """Write `<kind>-<step>`; all or nothing.

        Raises:
            SaveFailed: with the system's reason; earlier checkpoints are untouched.
        """
        target = self.folder / f"{kind}-{step:06d}"
        aside = self.folder / f".{target.name}.{os.getpid()}"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            self._write(aside, tensors, state)
            self._put_in_place(aside, target)
        except Exception as error:  # safetensors reports a full disk by an exception of its own
            shutil.rmtree(aside, ignore_errors=True)
            raise SaveFailed(target, error) from error
        return target

    def _write(self, aside: Path, tensors: TensorFiles, state: Mapping[str, Any]) -> None:
        from safetensors.torch import save_file

        for name, values in tensors.items():
            if values:
                save_file({key: value.detach().cpu().contiguous() for key, value in values.items()},
                          aside / f"{name}.safetensors")  # fmt: skip
        write_json(aside / STATE, {"format": FORMAT, **state})
        files = {}
        for path in sorted(aside.iterdir()):
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        write_json(aside / MANIFEST, {"format": FORMAT, "files": files})
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

    def newest_good(self, say: Callable[[str], None]) -> Checkpoint | None:
        """The newest state that verifies; says which were passed over and why. None: there is none at all.

        Raises:
            ResumeError: there are some, and none is whole.
        """
        faults = []
        for path in self._paths("step"):
            fault = verify(path) or self._best_is_gone(path)
            if fault is None:
                return Checkpoint(path, _read_state(path))
            say(f"checkpoint {path.name} is passed over: {fault}")
            faults.append(Fault(str(path), fault))
        if faults:
            raise ResumeError(*faults, Fault("resume", "no checkpoint of the run is whole", "start a new run"))
        return None

    def _best_is_gone(self, path: Path) -> str | None:
        best_step = _read_state(path).get("train_state", {}).get("best_step")
        if best_step is None:
            return None
        fault = verify(self.folder / f"best-{best_step:06d}")
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


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint's folder, or None: every file is there with its size and sha256."""
    try:
        manifest = read_json(path / MANIFEST)
        files = manifest["files"]
        if manifest["format"] != FORMAT:
            return f"format {manifest['format']}, this version reads {FORMAT}"
    except FileNotFoundError:
        return "manifest.json is missing" if path.is_dir() else "the folder is missing"
    except (ValueError, KeyError, TypeError, OSError) as error:
        return f"manifest.json can't be read ({error})"
    if STATE not in files:
        return f"{STATE} is missing in its manifest"
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {expected['bytes']}"
        if sha256(file) != expected["sha256"]:
            return f"{name} was altered (its sha256 differs)"
    return None


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = read_json(path / STATE)
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}

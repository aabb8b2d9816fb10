"""Files of tensors: on the disk for good before anybody speaks of them, known again by size and sha256.

Beside the checkpoints of a run lies at most one file of those tensors that never train in it:

    frozen-3f9a1c20b7de.safetensors

It is named by its content, so writing it twice is writing it once, and none that is referred to is ever replaced by
another. With `checkpoint` the only file of `run/` that knows torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llmtune.run.files import fsync_dir

FROZEN_FILES = "frozen-*.safetensors"


class FrozenFile(NamedTuple):
    """What a checkpoint says of the file that holds the rest of its model."""

    name: str
    bytes: int
    sha256: str

    @classmethod
    def write(cls, folder: Path, tensors: Mapping[str, Any]) -> FrozenFile:
        """Write them aside, then under the name of their content."""
        aside = folder / f".frozen.{os.getpid()}"
        try:
            write_tensors(aside, tensors)
            found = on_disk(aside)
            frozen = cls(f"frozen-{found['sha256'][:12]}.safetensors", **found)
            os.replace(aside, folder / frozen.name)
        finally:
            aside.unlink(missing_ok=True)
        fsync_dir(folder)
        return frozen

    def names(self, folder: Path) -> frozenset[str]:
        """Of its tensors."""
        from safetensors import safe_open

        with safe_open(folder / self.name, "pt") as file:
            return frozenset(file.keys())

    def tensors(self, folder: Path) -> dict[str, Any]:
        return read_tensors(folder / self.name)

    def fault(self, folder: Path) -> str | None:
        """What is wrong with it, or None."""
        return fault_of(folder / self.name, self._asdict())


def write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)


def read_tensors(path: Path) -> dict[str, Any]:
    """Tensors by name, on the CPU; empty if there is no such file."""
    from safetensors.torch import load_file

    return load_file(path) if path.exists() else {}


def on_disk(path: Path) -> dict[str, Any]:
    """`bytes` and `sha256` of a file, once all of it is there for good."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def fault_of(file: Path, expected: Mapping[str, Any]) -> str | None:
    """What is wrong with a file of which `bytes` and `sha256` are known, or None."""
    if not file.is_file():
        return f"{file.name} is missing"
    if file.stat().st_size != expected["bytes"]:
        return f"{file.name} has {file.stat().st_size} bytes instead of {expected['bytes']}"
    if sha256(file) != expected["sha256"]:
        return f"{file.name} was altered (its sha256 differs)"
    return None


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

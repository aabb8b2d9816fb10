"""Small files written so that a reader sees the old or the new one, never half of one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from llmtune.core.errors import Fault, LlmtuneError


class SaveFailed(LlmtuneError):
    """The disk is full or can't be written; what was saved before is untouched."""

    def __init__(self, target: Path, error: Exception):
        free = shutil.disk_usage(target.parent).free if target.parent.exists() else 0
        super().__init__(Fault(
            str(target), f"could not be saved: {error}", f"{free / 2**20:.0f} MiB are free there",
            "make room or allow writing, then the same command with resume=auto",
        ))  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace `path` at once (written aside, fsynced, renamed)."""
    with written_aside(path) as file:
        file.write(text)


@contextmanager
def written_aside(path: Path) -> Iterator[TextIO]:
    """A file that takes the place of `path` once all of it is written and fsynced."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def fsync_dir(path: Path) -> None:
    """Make a rename in `path` last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

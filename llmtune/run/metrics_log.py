"""metrics.jsonl and speed.jsonl: one JSON object a line, appended, cut back to a checkpoint on resume."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsLog:
    """Appends records. `mark()` is a place to come back to: what follows it was not saved with the checkpoint."""

    def __init__(self, path: Path):
        self.path = path
        self.path.touch()

    def write(self, record: Mapping[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def mark(self) -> int:
        """Bytes so far, all of them on the disk."""
        with self.path.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def cut_back(self, mark: int) -> None:
        """Forget everything after `mark` (a file that is shorter stays as it is)."""
        if self.path.stat().st_size > mark:
            os.truncate(self.path, mark)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole records of a file; a last line cut short by a kill is passed over."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records

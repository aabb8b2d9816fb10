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
        self._file = path.open("ab")

    def write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def mark(self) -> int:
        """Bytes so far, all of them on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def cut_back(self, mark: int) -> None:
        """Forget everything after `mark` (a file that is shorter stays as it is)."""
        if self.path.stat().st_size > mark:
            self._file.truncate(mark)
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole records of a file; a last line cut short by a kill is passed over."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records

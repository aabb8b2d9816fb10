"""Settings as shipped, files in a temporary folder, and a tokenizer that counts its calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from llmtune.config.settings import ColumnSettings, DataSettings
from llmtune.data.roles import LABEL, TEXT, TEXT_PAIR
from llmtune.data.rows import read_splits

SHIPPED = Path(__file__).parents[3] / "conf" / "data" / "files.yaml"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder that is the current one, with a cache of its own."""
    monkeypatch.setenv("LLMTUNE_CACHE", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def write(folder):
    """`write(name, content)` makes a file (text as UTF-8, with its line ends as they are)."""

    def write_file(name: str, content: str | bytes) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    return write_file


@pytest.fixture
def settings():
    """`settings(train=..., text=..., limit=...)`: conf/data/files.yaml with changes; no automatic splits."""

    def make(**changes: Any) -> DataSettings:
        plain = yaml.safe_load(SHIPPED.read_text(encoding="utf-8")) | {"validation_share": 0.0, "test_share": 0.0}
        for role in plain["columns"]:
            if role in changes:
                plain["columns"][role] = changes.pop(role)
        plain["columns"] = ColumnSettings(**plain["columns"])
        return DataSettings(**plain | changes)

    return make


@pytest.fixture
def read(folder, settings):
    """`read(train=..., ...)`: the raw splits."""

    def read_files(roles=(TEXT, TEXT_PAIR, LABEL), only=None, **changes: Any):
        return read_splits(settings(**changes), roles, only=only)

    return read_files


@pytest.fixture
def read_text(write, read):
    """`read_text(name, content, ...)`: rows of one file as dictionaries, and what was found out about it."""

    def read_one(name: str, content: str | bytes, **changes: Any):
        raw = read(train=write(name, content), **changes)
        return list(raw.splits["train"]), raw.report["splits"]["train"]

    return read_one


class CountingEncoder:
    """Words to numbers, as a task would do it; counts how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, columns: dict[str, list[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
        self.calls += 1
        rows = []
        for texts in zip(*columns.values()):
            ids = [1, *(2 + len(word) for text in texts for word in text.split())]
            rows.append(ids[:max_tokens])
        return {"input_ids": rows, "token_type_ids": [[0] * len(row) for row in rows], "attention_mask": rows}


@pytest.fixture
def encoder():
    return CountingEncoder()

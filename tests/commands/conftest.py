"""Tiny trained runs of each kind of problem, made once through the real entry point."""

from __future__ import annotations

import contextlib
import io
import json
import signal
from pathlib import Path

import pytest

from llmtune import cli

MORE = ["train.max_steps=4", "train.batch_rows=8", "train.verify_model=here", "hardware=cpu", "offline=true",
        "data.max_truncated_share=1", "data.max_tokens=24"]  # fmt: skip
GOOD = ["fine", "lovely", "great", "a joy", "superb"]
BAD = ["dull", "awful", "a bore", "poor", "broken"]


def rows(kind: str, count: int) -> list[dict]:
    """Rows that differ, some of them longer than 24 tokens."""
    made = []
    for i in range(count):
        word = (GOOD if i % 2 else BAD)[i // 2 % 5]
        text = f"Film {i} was {word}" + " and so was the one before it" * (i % 7 == 3) * 4
        if kind == "single":
            made.append({"text": text, "label": "good" if i % 2 else "bad"})
        elif kind == "multi":
            labels = (["good", "odd"], ["bad"], ["good, odd"], ["bad", "odd"])[i % 4]
            made.append({"text": text, "label": labels[: 1 + i % 2]})
        else:
            made.append({"first": text, "second": f"It was {word}.", "score": (i % 5) + 0.5})
    return made


def write_jsonl(path: Path, content: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """`trained(kind)` -> run folder; kind: single, multi or pairs (a regression)."""
    made: dict[str, Path] = {}

    def train(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            train_file = write_jsonl(folder / "train.jsonl", rows(kind, 60))
            test_file = write_jsonl(folder / "test.jsonl", rows(kind, 21))
            columns = ["data.columns.text=first", "data.columns.text_pair=second", "data.columns.label=score"]
            handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
            with contextlib.redirect_stdout(io.StringIO()):  # not into what a test captures
                code = cli.main(["train", "task=classification", "data=files", f"data.train={train_file}",
                                 f"data.test={test_file}", f"run.dir={folder / 'run'}", *MORE,
                                 *(columns if kind == "pairs" else [])])  # fmt: skip
            for number, handler in handlers.items():
                signal.signal(number, handler)
            assert code == 0
            made[kind] = folder / "run"
        return made[kind]

    return train


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path

"""Two processes score rows of several windows as one does, and tell the same of each row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

WORDS = (
    "task=qa", "data.limit=40", "data.max_tokens=48", "hardware.device=cpu", "hardware.threads=1", "model.dropout=0",
    "train.batch_rows=10", "train.micro_rows=5", "train.max_steps=3", "train.verify_model=off", "optimizer.lr=0.003",
)  # fmt: skip


@pytest.mark.dist
def test_two_processes_score_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmtune.cli import main

    monkeypatch.chdir(tmp_path)
    results, told = [], []
    for name, processes in (("one", 1), ("two", 2)):
        assert main(["train", *WORDS, f"run.dir={name}", f"hardware.processes={processes}"]) == 0
        results.append(json.loads((tmp_path / name / "result.json").read_text()))
        told.append([json.loads(line) for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()])
    one, two = results
    for split in ("validation", "test"):
        assert two[split] == pytest.approx(one[split], rel=1e-4, abs=1e-5)
    assert len(told[0]) == len(told[1]) == 40
    assert [(row["line"], row["predicted"]) for row in told[0]] == [(row["line"], row["predicted"]) for row in told[1]]

"""Runs of task=embedding and task=recommend: `evaluate` draws what training drew, `predict` reads rows of less."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import signal
from pathlib import Path

import pytest

from llmtune import cli
from tests.commands.conftest import MORE, write_jsonl

ITEMS = [f"{what} of {stuff}" for what in ("a box", "a map", "two bags", "a book") for stuff in ("salt", "wool", "tea")]


def rows(task: str, count: int) -> list[dict]:
    if task == "recommend":
        return [{"user": f"u{n % 20}", "profile": f"Nr {n % 20} likes tea", "item": ITEMS[(n * 5 + n // 20) % 12]}
                for n in range(count)]  # fmt: skip
    made = [{"text": f"{ITEMS[n % 12]} number {n}", "text_pair": f"number {n}: {ITEMS[n % 12]}"} for n in range(count)]
    return [{**row, **({"negative": [ITEMS[n % 5]]} if n % 3 else {})} for n, row in enumerate(made)]


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    made: dict[str, Path] = {}

    def train(task: str) -> Path:
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            files = {split: write_jsonl(folder / f"{split}.jsonl", rows(task, count))
                     for split, count in (("train", 60), ("test", 21))}  # fmt: skip
            handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
            with contextlib.redirect_stdout(io.StringIO()):
                assert cli.main(["train", f"task={task}", "data=files", f"data.train={files['train']}",
                                 f"data.test={files['test']}", f"run.dir={folder / 'run'}", *MORE]) == 0  # fmt: skip
            for number, handler in handlers.items():
                signal.signal(number, handler)
            made[task] = folder / "run"
        return made[task]

    return train


@pytest.mark.parametrize("task", ["embedding", "recommend"])
def test_test_scores_are_those_of_the_run(task, run_of, folder):
    assert cli.main(["evaluate", str(run_of(task)), "out=report.json"]) == 0
    report = json.loads(Path("report.json").read_text())
    before = json.loads((run_of(task) / "result.json").read_text())["test"]
    assert report["scores"] == pytest.approx(before, abs=1e-4)
    assert report["rows"] == 21
    assert {"file", "line", "gold", "predicted", "text"} <= set(report["worst"][0])


def test_vectors_of_texts_and_of_pairs(run_of, folder):
    write_jsonl(Path("pairs.jsonl"), [{"text": "a box of salt", "text_pair": "a box of salt"},
                                      {"text": "two bags", "text_pair": "tea"}])  # fmt: skip
    assert cli.main(["predict", str(run_of("embedding")), "pairs.jsonl", "-o", "out.jsonl"]) == 0
    same, other = (json.loads(line) for line in Path("out.jsonl").read_text().splitlines())
    assert same["cosine"] == pytest.approx(1, abs=1e-5)
    assert same["embedding"] == pytest.approx(same["embedding_pair"], abs=1e-5)
    assert sum(x * y for x, y in zip(other["embedding"], other["embedding_pair"])) == pytest.approx(
        other["cosine"], abs=1e-4
    )
    Path("texts.csv").write_text("text\na box of salt\n")
    assert cli.main(["predict", str(run_of("embedding")), "texts.csv", "-o", "out.csv"]) == 0
    with open("out.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert json.loads(row["embedding"]) == pytest.approx(same["embedding"], abs=1e-5)
    assert row["cosine"] == row["embedding_pair"] == ""


def test_scores_of_items_and_rankings_of_lists(run_of, folder):
    write_jsonl(Path("one.jsonl"), [{"profile": "Nr 3 likes tea", "item": item} for item in ITEMS[:3]])
    assert cli.main(["predict", str(run_of("recommend")), "one.jsonl", "-o", "single.jsonl"]) == 0
    single = [json.loads(line) for line in Path("single.jsonl").read_text().splitlines()]
    assert [row["ranking"] for row in single] == [None] * 3
    write_jsonl(Path("list.jsonl"), [{"profile": "Nr 3 likes tea", "candidates": ITEMS[:3]}])
    assert cli.main(["predict", str(run_of("recommend")), "list.jsonl", "-o", "listed.jsonl"]) == 0
    (listed,) = [json.loads(line) for line in Path("listed.jsonl").read_text().splitlines()]
    assert listed["score"] == pytest.approx([row["score"] for row in single], abs=1e-4)
    assert [listed["score"][place] for place in listed["ranking"]] == sorted(listed["score"], reverse=True)

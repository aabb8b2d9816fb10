"""Questions and choices in files as users have them are read by naming columns alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from llmtune.data.forms.answer_places import read_answers
from tests.tiny import TINY, prepared_of

ROWS = 40
SHAPE = tuple(word for word in TINY if not word.startswith(("task=", "data=")))
TOWNS = ("Ashford", "Köln", "青河镇")


def question_of(number: int) -> tuple[str, str, str]:
    """A question, its context and the answer; every fourth has none."""
    town = TOWNS[number % 3]
    return f"Where does person {number} live?", f"Person {number} lives in {town} now.", town if number % 4 else ""


def nested_jsonl(folder: Path) -> list[str]:
    """Question, context and answers deep inside, with "start" for the place."""
    rows = []
    for number in range(ROWS):
        question, context, town = question_of(number)
        gold = [{"text": town, "start": context.index(town)}] if town else []
        rows.append({"doc": {"body": [context]}, "ask": {"txt": question}, "gold": gold})
    (folder / "nested.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [
        f"data.train={folder / 'nested.jsonl'}", "data.columns.question=ask.txt", "data.columns.context=doc.body.0",
        "data.columns.answers=gold",
    ]  # fmt: skip


def german_csv(folder: Path) -> list[str]:
    """Semicolons, a German header, answers as plain texts, none where a question has none."""
    lines = ["Nr;Frage;Absatz;Antwort", *(";".join([str(n), *question_of(n)]) for n in range(ROWS))]
    (folder / "Fragen.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
    return [
        f"data.train={folder / 'Fragen.csv'}", "data.columns.question=Frage", "data.columns.context=Absatz",
        "data.columns.answers=Antwort",
    ]  # fmt: skip


def hugging_face_parquet(folder: Path) -> list[str]:
    """Answers as lists of texts and of places in one structure."""
    rows = []
    for number in range(ROWS):
        question, context, town = question_of(number)
        answers = {"text": [town] if town else [], "answer_start": [context.index(town)] if town else []}
        rows.append({"query": question, "passage_text": context, "labels": answers})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "hf.parquet")
    return [
        f"data.train={folder / 'hf.parquet'}", "data.columns.question=query", "data.columns.context=passage_text",
        "data.columns.answers=labels",
    ]  # fmt: skip


@pytest.mark.parametrize("make", [nested_jsonl, german_csv, hugging_face_parquet])
def test_questions(make: Callable[[Path], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = _prepared("qa", make, tmp_path, monkeypatch)
    found = {}
    for rows in prepared.splits.values():
        for question, context, stored in zip(rows["question"][:], rows["context"][:], rows["answers"][:]):
            found[question] = context, read_answers(stored, context).texts
    assert found == {
        question: (context, [town] if town else []) for question, context, town in map(question_of, range(ROWS))
    }
    counts = prepared.report["splits"]["train"]["labels"]["counts"]
    assert counts["unanswerable"]
    assert counts["answerable"]


def options_of(number: int) -> tuple[str, list[str], int]:
    """A question, its choices and the place of the right one."""
    return f"Which word is number {number}?", [f"{word} {number}" for word in ("a", "b", "c", "d")], number % 4


def exam_csv(folder: Path) -> list[str]:
    """A column a choice, and letters."""
    with (folder / "exam.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["no", "stem", "opt_a", "opt_b", "opt_c", "opt_d", "key"])
        for number in range(ROWS):
            question, choices, right = options_of(number)
            table.writerow([number, question, *choices, "ABCD"[right]])
    return [
        f"data.train={folder / 'exam.csv'}", "data.columns.question=stem",
        "data.columns.choices=[opt_a,opt_b,opt_c,opt_d]", "data.columns.label=key",
    ]  # fmt: skip


def nested_choices(folder: Path) -> list[str]:
    """The choices deep inside, counted from 1."""
    rows = [
        {"question": {"stem": question, "choices": {"text": choices}}, "answerKey": right + 1}
        for question, choices, right in map(options_of, range(ROWS))
    ]
    (folder / "book.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [
        f"data.train={folder / 'book.jsonl'}", "data.columns.question=question.stem",
        "data.columns.choices=question.choices.text", "data.columns.label=answerKey",
    ]  # fmt: skip


def endings_tsv(folder: Path) -> list[str]:
    """The right one is named by its text."""
    lines = ["sent\tend0\tend1\tend2\tend3\tgold"]
    lines += ["\t".join([q, *choices, choices[right]]) for q, choices, right in map(options_of, range(ROWS))]
    (folder / "endings.tsv").write_text("\n".join(lines))
    return [
        f"data.train={folder / 'endings.tsv'}", "data.columns.text=sent",
        "data.columns.choices=[end0,end1,end2,end3]", "data.columns.label=gold",
    ]  # fmt: skip


@pytest.mark.parametrize("make", [exam_csv, nested_choices, endings_tsv])
def test_choices(make: Callable[[Path], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = _prepared("multiple_choice", make, tmp_path, monkeypatch)
    found = {}
    for rows in prepared.splits.values():
        column = "question" if "question" in rows.column_names else "text"
        for question, choices, target in zip(rows[column][:], rows["choices"][:], rows["target"][:]):
            found[question] = json.loads(choices), target
    assert found == {question: (choices, right) for question, choices, right in map(options_of, range(ROWS))}


def _prepared(task: str, make: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LLMTUNE_CACHE", str(folder / "cache"))
    return prepared_of(f"task={task}", *SHAPE, "data=files", *make(folder))

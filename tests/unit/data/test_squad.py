"""Questions in SQuAD's JSON and in rows: what is read, from which line, and what is said of answers out of place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmtune.core.errors import DataError
from llmtune.data.files.squad import looks_like
from llmtune.data.forms.answer_places import read_answers
from llmtune.data.forms.values import BadValue
from llmtune.data.roles import ANSWERS, CONTEXT, QUESTION
from llmtune.inference.rows_in import Wanted, open_input

ROLES = (QUESTION, CONTEXT, ANSWERS)
CONTEXT_TEXT = 'Ada lives in Ashford. Ashford lies on the river "Arle".'


def squad(*questions: dict, title: str = "Towns") -> dict:
    return {
        "version": "v2.0",
        "data": [{"title": title, "paragraphs": [{"context": CONTEXT_TEXT, "qas": list(questions)}]}],
    }


def asked(number: int, *answers: tuple[str, int], **more: object) -> dict:
    found = [{"text": text, "answer_start": start} for text, start in answers]
    return {"question": f"Question {number}?", "id": f"q{number}", "answers": found, **more}


GOOD = squad(asked(1, ("Ashford", 13), ("in Ashford", 10)), asked(2, is_impossible=True), asked(3, ("Arle", 49)))


@pytest.mark.parametrize("indent", [None, 1])
def test_rows_of_squad(read, write, indent: int | None) -> None:
    rows = read(ROLES, train=write("squad.json", json.dumps(GOOD, indent=indent))).splits["train"]
    assert rows["question"][:] == ["Question 1?", "Question 2?", "Question 3?"]
    assert set(rows["context"][:]) == {CONTEXT_TEXT}
    answers = [json.loads(stored) for stored in rows["answers"][:]]
    assert [len(found) for found in answers] == [2, 0, 1]
    assert answers[0][1] == {
        "text": "in Ashford",
        "answer_start": 10,
    }
    text = json.dumps(GOOD, indent=indent).splitlines()
    for line, question in zip(rows["line"][:], rows["question"][:]):
        assert question in text[line - 1]


def test_the_report_names_the_format_and_the_columns(read, write) -> None:
    found = read(ROLES, train=write("squad.json", json.dumps(GOOD))).report["splits"]["train"]["found"][0]
    assert found["format"] == "squad"
    assert found["columns"] == {"question": "question", "context": "context", "answers": "answers"}


def test_the_first_release_of_cmrc(read, write) -> None:
    rows = [{"context_id": "T1", "context_text": "生命数耗完即为踢爆。", "qas": [
        {"query_id": "T1_0", "query_text": "耗完即为什么？", "answers": ["踢爆", "即为踢爆"]}]}]  # fmt: skip
    read_rows = read(ROLES, train=write("cmrc.json", json.dumps(rows, ensure_ascii=False))).splits["train"]
    assert read_rows["question"][:] == ["耗完即为什么？"]
    assert read_answers(read_rows["answers"][0], read_rows["context"][0]).places == [("踢爆", 7), ("即为踢爆", 5)]


def test_an_answer_out_of_place_is_told_with_its_line_and_the_nearest_place(read, write) -> None:
    wrong = squad(asked(1, ("Ashford", 13)), asked(2, ("Ashford", 20)), asked(3, ("Arle", -1)), asked(4, ("arle ", 2)))
    text = json.dumps(wrong, indent=2)
    name = write("wrong.json", text)
    with pytest.raises(DataError) as error:
        read(ROLES, train=name)
    said = str(error.value)
    line = next(number for number, row in enumerate(text.splitlines(), 1) if '"answer_start": 20' in row)
    assert f"{name}:{line}: question q2: the answer 'Ashford' does not stand at 20" in said
    assert "the nearest place where it stands is 22" in said
    assert "question q3: the answer 'Arle' does not stand at -1" in said
    assert "question q4: the answer 'arle ' does not stand at 2" in said
    assert "it stands nowhere in the context" in said
    assert "3 of 4 rows can't be used" in said
    assert "data.on_bad_row=drop" in said


def test_rows_with_answers_out_of_place_are_dropped_and_counted(read, write) -> None:
    wrong = squad(asked(1, ("Ashford", 13)), asked(2, ("Ashford", 20)), asked(3, is_impossible=True))
    raw = read(ROLES, train=write("wrong.json", json.dumps(wrong)), on_bad_row="drop")
    facts = raw.report["splits"]["train"]
    assert facts["rows_read"] == 3
    assert facts["rows_kept"] == 2
    ((reason, entry),) = facts["dropped"].items()
    assert "question q2" in reason
    assert entry == {"count": 1, "lines": ["wrong.json:1"]}


def test_rows_to_predict_are_read_whatever_their_answers(write, settings, tmp_path) -> None:
    wrong = squad(asked(1, ("Ashford", 20)), asked(2, ("Oslo", 1), is_impossible=True), {"id": "x", "answers": []})
    name = write("wrong.json", json.dumps(wrong))
    wanted = [Wanted(role, role.name, False) for role in (QUESTION, CONTEXT)]
    found = list(open_input(name, settings(), wanted, spool=tmp_path, task=SimpleNamespace(roles=ROLES)).rows())
    assert [row.texts and row.texts["question"] for row in found] == ["Question 1?", "Question 2?", None]
    assert [row.reason for row in found] == [None, None, "a question without 'question'"]


def test_empty_texts_are_no_answers_of_an_impossible_question(read, write) -> None:
    empty = squad(asked(1, ("Ashford", 13)), asked(2, ("", 0), is_impossible=True))
    rows = read(ROLES, train=write("empty.json", json.dumps(empty))).splits["train"]
    assert [bool(read_answers(stored, CONTEXT_TEXT).places) for stored in rows["answers"][:]] == [True, False]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"data": [{"paragraphs": [{"context": "a", "qas": [', ":1: no valid JSON"),
        ('{"data": [\n{"paragraphs": []}\n', ":3: no valid JSON (']' is missing)"),
        ('{"data": [{"paragraphs": []}]}', "holds no questions"),
        (json.dumps(squad({"id": "x", "answers": []})), "a question without 'question'"),
        (json.dumps({"data": [{"paragraphs": [{"qas": []}]}]}), "it needs 'context'"),
        (json.dumps(squad(asked(1, ("Ashford", 13), is_impossible=True))), "q1: is_impossible, but it has answers"),
    ],
)
def test_files_that_are_broken(read, write, content: str, said: str) -> None:
    with pytest.raises(DataError) as error:
        read(ROLES, train=write("broken.json", content), format="squad")
    assert said in str(error.value)


def test_keys_that_stand_twice_cost_the_line_only(read, write) -> None:
    text = json.dumps(squad(asked(1, ("Ashford", 13))), indent=1)
    text = text.replace('"id": "q1"', '"question": "Older?", "id": "q1"')
    rows = read(ROLES, train=write("twice.json", text)).splits["train"]
    assert rows["question"][:] == ["Older?"]
    assert rows["line"][0] >= 1


def test_looks_like() -> None:
    assert looks_like(json.dumps(GOOD, indent=1).splitlines()[:50])
    assert looks_like(['[{"context_id": "T1", "qas": []}]'])
    assert not looks_like(['{"question": "Who?", "context": "Ada", "answers": ["Ada"]}'])
    assert not looks_like([])


FORMS = {
    "squad": [{"text": "Ashford", "answer_start": 13}],
    "one": {"text": "Ashford", "answer_start": 13},
    "hugging face": {"text": ["Ashford", "Ada"], "answer_start": [13, 0]},
    "numbers as texts": [{"text": "Ashford", "answer_start": "13"}],
    "start": [{"text": "Ashford", "start": 13}],
    "text": "Ashford",
    "texts": ["Ashford", "Ada"],
}


@pytest.mark.parametrize("value", FORMS.values(), ids=FORMS)
def test_forms_of_answers(value: object) -> None:
    gold = read_answers(json.dumps(value), CONTEXT_TEXT)
    assert gold.places[0] == ("Ashford", 13)
    assert all(CONTEXT_TEXT[start : start + len(text)] == text for text, start in gold.places)


@pytest.mark.parametrize("value", [[], "", {"text": [], "answer_start": []}, {"text": "", "answer_start": -1}, [""]])
def test_forms_of_no_answer(value: object) -> None:
    assert read_answers(json.dumps(value), CONTEXT_TEXT).places == []


def test_texts_that_stand_several_times_take_the_first_place() -> None:
    gold = read_answers(json.dumps(["Ashford", "Ada"]), CONTEXT_TEXT)
    assert (gold.found, gold.repeated) == (2, 1)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("Oslo", "does not stand in the context"),
        ([{"text": "ashford", "answer_start": 13}], "stands nowhere in the context, but 'Ashford' stands at 13"),
        ([{"answer_start": 13}], "has no 'text', it has 'answer_start'"),
        ([{"text": "Ada", "answer_start": "x"}], "instead of a whole number"),
        ({"text": ["Ada", "Arle"], "answer_start": [0]}, "2 answer(s), but [0] as their places"),
        ([{"text": None, "answer_start": 0}], "is None instead of a text"),
    ],
)
def test_wrong_answers(value: object, said: str) -> None:
    with pytest.raises(BadValue) as error:
        read_answers(json.dumps(value), CONTEXT_TEXT)
    assert said in str(error.value)


def test_rows_of_csv_and_jsonl(read, write) -> None:
    lines = [
        {"question": "Where?", "context": CONTEXT_TEXT, "answers": {"text": ["Ashford"], "answer_start": [13]}},
        {"question": "Who?", "context": CONTEXT_TEXT, "answers": {"text": [], "answer_start": []}},
        {"question": "What?", "context": CONTEXT_TEXT, "answers": {"text": ["Ashford"], "answer_start": [14]}},
    ]
    name = write("rows.jsonl", "\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match=r"rows\.jsonl:3: the answer 'Ashford' does not stand at 14"):
        read(ROLES, train=name)
    assert len(read(ROLES, train=name, on_bad_row="drop").splits["train"]) == 2
    quoted = CONTEXT_TEXT.replace('"', '""')
    name = write(
        "rows.csv", f'frage,absatz,antwort\nWo?,"{quoted}",Ashford\nWer?,"{quoted}",""\nWas?,"{quoted}",Oslo\n'
    )
    named = {"question": "frage", "context": "absatz", "answers": "antwort"}
    with pytest.raises(DataError, match=r"rows\.csv:4: the answer 'Oslo' does not stand in the context"):
        read(ROLES, train=name, **named)
    rows = read(ROLES, train=name, on_bad_row="drop", **named).splits["train"]
    assert [read_answers(stored, CONTEXT_TEXT).texts for stored in rows["answers"][:]] == [["Ashford"], []]


def test_built_in_rows_are_right() -> None:
    folder = Path(__file__).parents[3] / "llmtune" / "samples" / "questions"
    seen, impossible, total = set(), 0, 0
    for split in ("train", "validation", "test"):
        for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for answer in row["answers"]:
                start, text = answer["answer_start"], answer["text"]
                assert row["context"][start : start + len(text)] == text != ""
            key = row["question"], row["context"]
            assert key not in seen
            seen.add(key)
            total, impossible = total + 1, impossible + (not row["answers"])
    assert total > 1000
    assert 0.2 < impossible / total < 0.35
    assert any("谁" in question for question, _ in seen)
    assert any("Wie" in question for question, _ in seen)


SHARED = Path(os.environ.get("LLMTUNE_DATA", "/nowhere"))
FILES = {
    "squad2_slice/train.json": (2439, 1319, 0),
    "squad2_slice/dev.json": (1126, 561, 0),
    "xquad/xquad.en.json": (1190, 0, 0),
    "xquad/xquad.zh.json": (1190, 0, 0),
    "cmrc2018/cmrc2018_trial.json": (1002, 0, 5),
    "cmrc2018/cmrc2018_dev_head250.json": (879, 0, 69),
}
"""questions, those without an answer, those with an answer that does not stand at its place"""


@pytest.mark.skipif("LLMTUNE_DATA" not in os.environ, reason="LLMTUNE_DATA does not name the shared data")
@pytest.mark.parametrize("name", FILES)
def test_shared_files(read, name: str) -> None:
    questions, unanswerable, misplaced = FILES[name]
    raw = read(ROLES, train=str(SHARED / name), on_bad_row="drop")
    facts = raw.report["splits"]["train"]
    assert facts["rows_read"] == questions
    assert sum(entry["count"] for reason, entry in facts["dropped"].items() if "does not stand" in reason) == misplaced
    rows = raw.splits["train"]
    golds = [read_answers(stored, context) for stored, context in zip(rows["answers"][:], rows["context"][:])]
    assert sum(not gold.places for gold in golds) == unanswerable
    assert not any(gold.found for gold in golds)

"""Texts with spans and words with tags as rows: what is read, and what is told of rows that are wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmtune.core.errors import ConfigError, DataError
from llmtune.data.tagging.rows import BadRow, Reading, gold_of, words_of
from llmtune.data.tagging.words import find_joiners, join_words, split_words
from llmtune.task.tagging import ROLES, Tagging

TEXT = "Anna Grau met Bo in Bad Tölz."
BY_TEXT = Reading("BIO", "", False, False, "text")


def task_of(**changes: Any) -> Any:
    usual = {
        "name": "ner", "kind": "tagging", "head": "linear", "scheme": "auto", "learn_as": "same", "broken": "error",
        "nested": False, "widest_span": 64, "overlap": 8, "metric": "auto",
    }  # fmt: skip
    return Tagging(**usual | changes).build()


def gold(spans: Any, text: str = TEXT, **changes: Any) -> Any:
    reading = Reading(**{**vars(BY_TEXT), **changes})
    columns = {"text": [text], "spans": [json.dumps(spans)]}
    return gold_of(columns, 0, words_of(columns, 0, reading), reading)


@pytest.mark.parametrize(
    ("text", "joiners", "words"),
    [
        ("It's 3.5 km, U.S.!", "", ["It", "'", "s", "3", ".", "5", "km", ",", "U", ".", "S", ".", "!"]),
        ("It's 3.5 km.", "'.", ["It's", "3.5", "km", "."]),
        ("北京大学的Anna2号。", "", ["北", "京", "大", "学", "的", "Anna2", "号", "。"]),
        ("カタカナ, हिन्दी ok", "", ["カ", "タ", "カ", "ナ", ",", "हिन्दी", "ok"]),
        ("  a\n\tb ", "", ["a", "b"]),
        ("cafe\u0301 x", "", ["cafe\u0301", "x"]),
    ],
)  # fmt: skip
def test_words_of_a_text(text: str, joiners: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in split_words(text, joiners)] == words


def test_words_are_put_together() -> None:
    text, offsets = join_words(["Anna", "去", "北", "京", "，", "ok", "?"])
    assert text == "Anna去北京，ok ?"
    assert [text[start:end] for start, end in offsets] == ["Anna", "去", "北", "京", "，", "ok", "?"]


def test_marks_inside_words_as_files_have_them() -> None:
    assert find_joiners([["e-mail", "don't", "-", "x", "3", ".", "5"]]) == "'-"
    assert find_joiners([["e", "-", "mail"]]) == ""


@pytest.mark.parametrize(
    "span",
    [
        [0, 9, "P"], {"start": 0, "end": 9, "label": "P"}, {"begin": "0", "stop": 9, "type": "P", "text": "Anna Grau"},
        {"start_offset": 0, "end_offset": 9, "labels": ["P"]}, [0, 10, "P"],
    ],
)  # fmt: skip
def test_spans_as_files_have_them(span: Any) -> None:
    assert gold([span]) == [(0, 2, "P")]


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([[0, 3, "P"]], r"P \[0, 3\] \('Ann'\) cuts the word 'Anna' at \[0, 4\]"),
        ([[2, 9, "P"]], r"cuts the word 'Anna' at \[0, 4\]"),
        ([[20, 40, "L"]], r"L \[20, 40\] does not lie in the text, which has 29 characters"),
        ([[5, 5, "L"]], "does not lie in the text"),
        ([[4, 5, "L"]], "covers blanks only"),
        ([[0, 9, "P"], [5, 13, "Q"]], "P 'Anna Grau' and Q 'Grau met' overlap.*task.head=span task.nested=true"),
        ([[0, 9, "P"], [0, 9, "Q"]], "the words 'Anna Grau' are of two types"),
        ([{"start": 0, "end": 8, "label": "P", "text": "Anna Grau"}], "said to be 'Anna Grau', but 'Anna Gra' "
         "stands there; the end must be the character after the last"),
        ([{"start": 1, "end": 5, "label": "P", "text": "Anna"}], "said to be 'Anna', but 'nna ' stands there$"),
        ([{"start": 0, "label": "P"}], "has no numbers as start and end"),
        ([[0, 9, ""]], "has no label"),
        ([[0, 9]], "instead of {start, end, label}"),
        ({"a": 1}, "the spans are a dict instead of a list"),
    ],
)  # fmt: skip
def test_spans_that_are_wrong(spans: Any, said: str) -> None:
    with pytest.raises(BadRow, match=said):
        gold(spans)


def test_repaired_spans() -> None:
    assert gold([[1, 7, "P"], [5, 13, "Q"]], repair=True) == [(0, 2, "P")]
    assert gold([[0, 9, "P"], [5, 9, "Q"]], nested=True) == [(0, 2, "P"), (1, 2, "Q")]


def read_labels(task: Any, read: Any, **changes: Any) -> Any:
    return task.read_labels(read(roles=ROLES, **changes), None, None)


def test_the_bad_rows_of_a_file_are_all_named(write: Any, read: Any) -> None:
    write("a.conll", "a O\nb I-X\n\nc B-X\n\nd B-X\ne I-Y\n")
    with pytest.raises(DataError) as caught:
        read_labels(task_of(), read, train="a.conll")
    assert str(caught.value).splitlines() == [
        "a.conll:1: tag 'I-X' (word 2) after 'O': in BIO an entity begins with B-X",
        "a.conll:6: tag 'I-Y' (word 2) after 'B-X': in BIO an entity begins with B-Y",
        "data.train: 2 of 3 rows have broken tags or spans; mend them (read as BIO; task.scheme names another), or "
        "type task.broken=repair (as conlleval reads it)",
    ]
    found = read_labels(task_of(broken="repair"), read, train="a.conll")
    assert found.report == {"train": {"counts": {"X": 3, "Y": 1}}}
    assert found.warnings == ["train: 2 row(s) with broken tags or spans were repaired"]


def test_a_mistyped_tag_is_named_and_does_not_change_the_scheme(write: Any, read: Any) -> None:
    rows = ["a O\nb B-PER\nc I-PER\n"] * 300
    write("a.conll", "\n".join([*rows, "d LOC\n", "e O\nf I-PER\n", "g b-PER\n"]))
    with pytest.raises(DataError) as caught:
        read_labels(task_of(), read, train="a.conll")
    assert str(caught.value).splitlines() == [
        "a.conll:1201: tag 'LOC' (word 1) is none of BIO, which has B-X, I-X, O",
        "a.conll:1203: tag 'I-PER' (word 2) after 'O': in BIO an entity begins with B-PER",
        "a.conll:1206: tag 'b-PER' (word 1) is none of BIO, which has B-X, I-X, O",
        "data.train: 3 of 303 rows have broken tags or spans; mend them (read as BIO; task.scheme names another), or "
        "type task.broken=repair (as conlleval reads it)",
    ]
    with pytest.raises(DataError) as caught:
        read_labels(task_of(broken="repair"), read, train="a.conll")
    assert str(caught.value).splitlines()[2:] == [
        "data.train: 2 of 303 rows have broken tags or spans; mend them (read as BIO; task.scheme names another)"
    ]
    write("a.conll", "\n".join(rows[:-1]))
    read_labels(task := task_of(), read, train="a.conll")
    assert task.known.kinds == ("PER",)


def test_lengths_types_and_emptiness(write: Any, read: Any) -> None:
    write("a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}\n{"tokens": ["a"], "tags": ["B-X"]}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1: 2 words and 1 tags"):
        read_labels(task_of(), read, train="a.jsonl")
    write("b.jsonl", '{"tokens": ["a"], "tags": ["B-X"]}\n')
    write("c.jsonl", '{"tokens": ["a"], "tags": ["B-Xx"]}\n')
    with pytest.raises(DataError, match=r"data.validation: type 'Xx' is not in train \(1 time\(s\): c.jsonl:1\)"):
        read_labels(task_of(), read, train="b.jsonl", validation="c.jsonl")
    write("d.jsonl", '{"tokens": ["a"], "tags": ["O"]}\n')
    with pytest.raises(DataError, match=r"data.train: .*the tag 'O'; something to learn"):
        read_labels(task_of(), read, train="d.jsonl")
    write("e.jsonl", '{"text": "a", "spans": []}\n')
    with pytest.raises(DataError, match=r"data.train: no row has an entity"):
        read_labels(task_of(), read, train="e.jsonl")


def test_a_file_without_both_is_told(write: Any, read: Any) -> None:
    write("a.jsonl", '{"text": "a b", "ner": "O O"}\n{"text": "c", "ner": "O"}\n')
    with pytest.raises(DataError, match=r"tags|spans"):
        read_labels(task_of(), read, train="a.jsonl", tags=None, text="text")


def test_nested_columns_and_odd_names_by_mapping_alone(write: Any, read: Any) -> None:
    row = {"doc": {"body": "Anna Grau met Bo."}, "meta": {"ents": [{"from": 0, "to": 9, "entity_group": "P"}]}}
    write("a.jsonl", json.dumps(row) + "\n")
    task = task_of()
    read_labels(task, read, train="a.jsonl", text="doc.body", spans="meta.ents")
    assert task.labels.names == ("O", "B-P", "I-P")
    write("b.csv", 'sätze;etiketten\n"Anna Grau schläft";"B-P I-P O"\n"Er ruht";"O O"\n')
    read_labels(task := task_of(), read, train="b.csv", tokens="sätze", tags="etiketten")
    assert task.labels.names == ("O", "B-P", "I-P")
    row = {"sentence": [{"w": "no"}], "x": {"toks": ["a", "b"], "ids": [1, 2]}}
    write("c.jsonl", json.dumps(row) + "\n")
    task = task_of()
    raw = read(roles=ROLES, train="c.jsonl", tokens="x.toks", tags="x.ids")
    task.read_labels(raw, ["O", "B-P", "I-P"], None)
    assert task.labels.names == ("O", "B-P", "I-P")
    assert task.known.kinds == ("P",)


def test_numbers_without_names(write: Any, read: Any) -> None:
    write("a.jsonl", '{"tokens": ["a", "b", "c"], "ner_tags": [3, 4, 0]}\n{"tokens": ["d"], "ner_tags": [0]}\n')
    for changes in ({"metric": "f1"}, {"head": "span"}):
        with pytest.raises(DataError) as caught:
            read_labels(task_of(**changes), read, train="a.jsonl", tags="ner_tags")
        assert str(caught.value).startswith(
            "data.train: tags are numbers (0 to 4) without names; entities need tags such as B-X I-X O; "
            "type data.label_names=[O,B-...,I-...], the names of 0, 1, 2, ..."
        )
    task = task_of(metric="f1")
    task.read_labels(read(roles=ROLES, train="a.jsonl", tags="ner_tags"), ["O", "B-P", "I-P", "B-L", "I-L"], None)
    assert task.labels.names == ("O", "B-P", "I-P", "B-L", "I-L")
    assert task.known.kinds == ("P", "L")
    read_labels(task := task_of(metric="accuracy"), read, train="a.jsonl", tags="ner_tags")
    assert task.labels.names == ("0", "3", "4")


def test_converted_and_kept(write: Any, read: Any) -> None:
    write("a.conll", "a B-X\nb E-X\nc S-Y\nd O\n")
    task = task_of(learn_as="BIO")
    read_labels(task, read, train="a.conll")
    assert task.labels.names == ("O", "B-X", "I-X", "B-Y", "I-Y")
    assert task.known.write([(0, 2, "X"), (2, 3, "Y")], 4) == ["B-X", "I-X", "B-Y", "O"]
    again = task_of(learn_as="BIO")
    again.restore(json.loads(json.dumps(task.to_json())))
    assert again.known == task.known
    assert again.metric == "f1"
    assert json.dumps(again.encoding_key) == json.dumps(task.encoding_key)
    assert {"code", "overlap"} <= task.encoding_key.keys()


def test_settings_that_make_no_sense_together(write: Any, read: Any) -> None:
    with pytest.raises(ValueError, match=r"nested: true, but a head 'crf' gives each word one tag"):
        task_of(nested=True, head="crf")
    write("a.conll", "a NN\nb VB\n\nc NN\n")
    with pytest.raises(ConfigError, match=r"task\.head: span, but these tags mark no entities"):
        read_labels(task_of(head="span"), read, train="a.conll")
    with pytest.raises(ConfigError, match=r"'f1' is no metric of tags; allowed: accuracy"):
        read_labels(task_of(metric="f1"), read, train="a.conll")
    with pytest.raises(ConfigError, match=r"data\.label_delimiter"):
        task_of().read_labels(read(roles=ROLES, train="a.conll"), None, ",")

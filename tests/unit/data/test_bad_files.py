"""Wrong data files, each with the message its user reads."""

from __future__ import annotations

import gzip
import json

import pytest

from llmtune.core.errors import DataError
from llmtune.data.labels import label_splits

PAIRS = "name them: data.columns.text=0 data.columns.label=2"
CASES = {
    "empty file": ("a.csv", "", {}, ["data.train: 'a.csv' is empty (0 bytes)"]),
    "only a header": ("a.csv", "text,label\n", {}, ["a.csv: holds no rows besides its header"]),
    "unknown ending": (
        "a.dat",
        "x",
        {},
        ["data.train: 'a.dat' has a name that does not tell its format", "data.format=csv"],
    ),
    "wrong column": (
        "a.csv",
        "sentence, label\nx y,1\n",
        {"text": "sentance"},
        [
            "data.columns.text: a.csv has no column 'sentance'; ",
            "its columns: 'sentence' (such as 'x y'), 'label' (such as '1')",
            "data.columns.text=sentence",
        ],
    ),
    "name without header": (
        "a.tsv",
        "a longer text\t1\nanother text\t0\n",
        {"text": "text"},
        ["data.columns.text: a.tsv has no header, so no column 'text'", "0 (such as 'a longer text'), 1 (such as '1')"],
    ),
    "position out of range": (
        "a.csv",
        "text,label\nx,1\n",
        {"text": 5},
        ["a.csv has no column 5: positions are 0 to 1"],
    ),
    "two faults at once": (
        "a.csv",
        "q,label\nx,1\n",
        {"text": "tx", "label": 9},
        ["data.columns.text: a.csv has no column 'tx'", "data.columns.label: a.csv has no column 9"],
    ),
    "columns can't be told": (
        "a.csv",
        "A man sings.,A man is singing.,4.5\nA dog runs.,The cat sleeps.,0.5\nA boy eats.,A boy is eating.,3.9\n",
        {},
        ["a.csv: can't tell which column is the text and which the label", "2 (such as '4.5')", PAIRS],
    ),
    "names with blanks": (
        "a.csv",
        "what it says,what we think,no\nx y,good,1\nx z,bad,2\n",
        {},
        ["name them: 'data.columns.text=what it says' 'data.columns.label=what we think'"],
    ),
    "two candidates": (
        "a.csv",
        "text,review,label\nx,y,1\n",
        {},
        ["can't tell which column is the text", "'text' (such as 'x'), 'review' (such as 'y')"],
    ),
    "column twice": (
        "a.csv",
        "text,text,label\nx,y,1\n",
        {"text": "text"},
        ["a.csv has 2 columns named 'text'; data.columns.text=0"],
    ),
    "no label in a row": (
        "a.csv",
        "text,label\nx,1\ny,\nz,0\n",
        {},
        ["a.csv:3: no label", "1 of 3 rows can't be used", "data.on_bad_row=drop"],
    ),
    "empty text": ("a.csv", "text,label\nx,1\n   ,0\nz,0\n", {}, ["a.csv:3: empty text"]),
    "too many fields": ("a.csv", "text,label\nx,1\na, b, c,0\nz,0\n", {}, ["a.csv:3: 4 fields instead of 2"]),
    "quote never closed": (
        "a.csv",
        'text,label\n"one, two",1\n"three, four,0\nfive,1\n',
        {"quote": '"'},
        ['a.csv:3: a " that opens here is never closed', "data.quote=none"],
    ),
    "no such delimiter": (
        "a.csv",
        "text,label\nx,1\n",
        {"delimiter": ";"},
        ["a.csv: no line holds the delimiter ';'", "data.delimiter=auto"],
    ),
    "delimiter too long": (
        "a.csv",
        "text,label\nx,1\n",
        {"delimiter": "ab"},
        ["data.delimiter: 'ab' is not one character"],
    ),
    "one column": ("a.csv", "text\nx y\nz\n", {}, ["a.csv: has 1 column(s), 2 are needed"]),
    "broken UTF-8": (
        "a.csv",
        "text,label\ncafé,1\n".encode() + b"caf\xe9,0\n" + "thé,1\n".encode(),
        {},
        ["a.csv:3: the text can't be decoded"],
    ),
    "Chinese, not UTF-8": (
        "a.csv",
        "text,label\n这部电影很好看,1\n".encode("gbk"),
        {},
        ["a.csv: is neither UTF-8 nor a Western text in Latin-1", "data.encoding=gb18030"],
    ),
    "unknown encoding": ("a.csv", "text,label\nx,1\n", {"encoding": "utf-9"}, ["data.encoding: 'utf-9' is not known"]),
    "cut UTF-16": (
        "a.csv",
        "text,label\nx,1\n".encode("utf-16")[:-1],
        {},
        ["a.csv: can't be read as utf-16: truncated data"],
    ),
    "UTF-8 called UTF-16": (
        "a.csv",
        "text,label\nx,1\n",
        {"encoding": "utf-16"},
        ["a.csv: can't be read as utf-16: UTF-16 stream does not start with BOM; data.encoding=auto"],
    ),
    "cut gzip": (
        "a.csv.gz",
        gzip.compress(b"text,label\nx,1\n" * 50)[:-12],
        {},
        ["a.csv.gz: the compressed file is damaged"],
    ),
    "not gzip": (
        "a.csv.gz",
        b"text,label\nx,1\n",
        {},
        ["a.csv.gz: the compressed file is damaged: Not a gzipped file"],
    ),
    "not Parquet": ("a.parquet", b"text,label\nx,1\n", {}, ["a.parquet: is no Parquet file"]),
    "broken JSON line": (
        "a.jsonl",
        '{"text": "x", "label": 1}\n{"text": "y", "label": 0\n',
        {},
        ["a.jsonl:2: no valid JSON (Expecting ',' delimiter, column 25)"],
    ),
    "JSON list instead of object": (
        "a.jsonl",
        '{"text": "x", "label": 1}\n["y", 0]\n',
        {},
        ["a.jsonl:2: a JSON list instead of an object"],
    ),
    "text is a list": ("a.jsonl", '{"text": ["x"], "label": 1}\n', {}, ["a.jsonl:1: the text is a list"]),
    "null label": ("a.jsonl", '{"text": "x", "label": null}\n', {}, ["a.jsonl:1: no label"]),
    "missing key": ("a.jsonl", '{"text": "x", "label": 1}\n{"text": "y"}\n', {}, ["a.jsonl:2: no 'label'"]),
    "one JSON object": (
        "a.json",
        '{\n "text": ["x"]\n}',
        {},
        ["a.json: is one JSON object, or no JSON", "orient='records'"],
    ),
    "cut JSON array": ("a.json", '[\n{"text": "x", "label": 1},\n{"text": "y"', {}, ["a.json:3: no valid JSON"]),
    "no 0/1 column": ("a.csv", "text,a,b\nx,1,2\n", {"label": ["a", "b"]}, ["a.csv:2: column 'b' is not 0 or 1"]),
    "too few to split": (
        "a.csv",
        "text,label\nx,1\n",
        {"validation_share": 0.1},
        ["data.train: 1 different text(s) are too few", "data.validation_share=0"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_file_has_its_message(write, read, case):
    name, content, changes, expected = CASES[case]
    with pytest.raises(DataError) as caught:
        read(train=write(name, content), **changes)
    message = str(caught.value)
    for part in expected:
        assert part in message
    assert caught.value.exit_code == 2


LABEL_CASES = {
    "one class": (
        "x,1\ny,1\n",
        "z,1\n",
        {},
        ["data.train: all 2 rows have the label '1'; at least 2 classes are needed"],
    ),
    "label only in validation": (
        "x,a\ny,b\n",
        "z,c\nw,c\nv,a\n",
        {},
        ["data.validation: label 'c' is not in train (2 row(s): v.csv:2, v.csv:3); known: a, b"],
    ),
    "another spelling": (
        "x,1\ny,0\n",
        "z,1.0\n",
        {},
        ["label '1.0' is not in train (1 row(s): v.csv:2)", "train writes it '1'"],
    ),
    "no number": (
        "x,1.5\ny,2.5\nu,high\n",
        "z,1.0\n",
        {"problem": "regression"},
        ["t.csv:4: label 'high' is no finite number, as regression needs", "1 of 3 labels do not fit"],
    ),
    "not finite": (
        "x,1.5\ny,inf\n",
        "z,nan\n",
        {"problem": "regression"},
        ["t.csv:3: label 'inf'", "v.csv:2: label 'nan'"],
    ),
    "one score": ("x,2.5\ny,2.5\n", "z,1\n", {}, ["data.train: all 2 rows have the score 2.5"]),
    "several labels": (
        "x,a|b\ny,b\n",
        "z,a\n",
        {"problem": "single_label", "delimiter": "|"},
        ["t.csv:2: label ['a', 'b'] is a list", "task.problem_type=multi_label"],
    ),
    "not among the names": (
        "x,a\ny,q\n",
        "z,a\n",
        {"label_names": ["a", "b"]},
        ["labels that are not among the 2 names: 'q'"],
    ),
    "number beyond the names": (
        "x,0\ny,7\n",
        "z,0\n",
        {"label_names": ["a", "b"]},
        ["labels that are not among the 2 names: '0', '7'"],
    ),
    "names file missing": (
        "x,a\ny,b\n",
        "z,a\n",
        {"label_names": "names.txt"},
        ["data.label_names: 'names.txt' is no file"],
    ),
    "name twice": ("x,a\ny,b\n", "z,a\n", {"label_names": ["a", "a"]}, ["data.label_names: 'a' stands twice"]),
}


@pytest.mark.parametrize("case", LABEL_CASES)
def test_wrong_labels_have_their_message(write, read, case):
    train, validation, changes, expected = LABEL_CASES[case]
    raw = read(train=write("t.csv", "text,label\n" + train), validation=write("v.csv", "text,label\n" + validation))
    with pytest.raises(DataError) as caught:
        label_splits(raw, **changes)
    for part in expected:
        assert part in str(caught.value)


PATH_CASES = {
    "no such file": (
        "data/trian.csv",
        [
            "data.train: 'data/trian.csv' does not exist; the folder holds test.csv, train.csv",
            "did you mean 'train.csv'?",
        ],
    ),
    "no such folder": ("dta/train.csv", ["'dta/train.csv' does not exist: there is no folder 'dta'"]),
    "glob without match": ("data/*.jsonl", ["data.train: no file matches 'data/*.jsonl'"]),
    "folder of several splits": (
        "data",
        ["holds files of several splits: test.csv, train.csv", "data.train=data/test.csv"],
    ),
    "folder of folders": (
        "deep",
        ["no folder in 'deep' holds files; it holds the folders train", "data.train=deep/train"],
    ),
    "folder of nothing": ("none", ["the folder 'none' holds neither data files nor a folder per class"]),
    "not in the package": ("builtin:reviews/none.jsonl", ["'builtin:reviews/none.jsonl' does not ship with llmtune"]),
    "empty list": ([], ["data.train: the list is empty"]),
}


@pytest.mark.parametrize("case", PATH_CASES)
def test_wrong_paths_have_their_message(write, folder, read, case):
    write("data/train.csv", "text,label\nx,1\n")
    write("data/test.csv", "text,label\nx,1\n")
    write("deep/train/pos/1.txt", "x")
    (folder / "none").mkdir()
    given, expected = PATH_CASES[case]
    with pytest.raises(DataError) as caught:
        read(train=given)
    for part in expected:
        assert part in str(caught.value)


def test_faults_of_all_splits_come_together(read):
    with pytest.raises(DataError) as caught:
        read(train="a.csv", validation="b.csv", test="c/*.csv")
    assert len(caught.value.faults) == 3


def test_train_not_named(read):
    with pytest.raises(DataError, match=r"data.train: no rows were named; .*; data.train=FILE"):
        read()


def test_bad_row_1234_of_5000_is_named(read_text):
    lines = [json.dumps({"text": f"text {i}", "label": i % 2}) for i in range(1, 5001)]
    lines[1233] = '{"text": "text 1234"}'
    with pytest.raises(DataError, match=r"a.jsonl:1234: no 'label'"):
        read_text("a.jsonl", "\n".join(lines))


def test_bad_rows_can_be_dropped_and_are_listed(read_text):
    rows, report = read_text("a.csv", "text,label\nx,1\n,0\ny,0\n \t,1\nz,\na,b,c\n", on_bad_row="drop")
    assert [row["text"] for row in rows] == ["x", "y"]
    assert report["rows_read"] == 6
    assert report["rows_kept"] == 2
    assert report["dropped"] == {
        "empty text": {"count": 2, "lines": ["a.csv:3", "a.csv:5"]},
        "no label": {"count": 1, "lines": ["a.csv:6"]},
        "3 fields instead of 2": {"count": 1, "lines": ["a.csv:7"]},
    }


def test_too_many_bad_rows_stop_the_run(read_text):
    with pytest.raises(DataError, match=r"2 of 3 rows can't be used; data.max_bad_rows=1"):
        read_text("a.csv", "text,label\nx,1\n,0\n,1\n", on_bad_row="drop", max_bad_rows=1)


def test_empty_split_says_what_removed_its_rows(read_text):
    with pytest.raises(DataError, match=r"no row is left: all 2 rows were dropped \(empty text: 1, no label: 1\)"):
        read_text("a.csv", "text,label\n,1\nx,\n", on_bad_row="drop")


def test_headerless_files_that_look_unlike_are_refused(write, read):
    one = "".join(f"some longer text number {i}\t{i % 2}\n" for i in range(20))
    two = "".join(f"{i % 2}\tsome longer text number {i}\n" for i in range(20))
    with pytest.raises(
        DataError, match=r"two.tsv: its columns look like .* name them: data.columns.text=0 data.columns.label=1"
    ):
        read(train=write("one.tsv", one), validation=write("two.tsv", two))

"""What predict reads: the columns of training in another file, or what to type; every row of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from llmtune.config.settings import ColumnSettings, DataSettings
from llmtune.core.errors import DataError
from llmtune.data.roles import Role
from llmtune.inference.rows_in import Wanted, open_input

SHIPPED = Path(__file__).parents[3] / "conf" / "data" / "files.yaml"
TEXT = Role("text", True, ("text", "review"))


@pytest.fixture
def settings():
    plain = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    return DataSettings(**{**plain, "columns": ColumnSettings(**plain["columns"])})


@pytest.fixture
def texts(tmp_path, settings):
    def read(name: str, content: str, *wanted: Wanted, **changes):
        path = tmp_path / name
        path.write_bytes(content.encode())
        found = open_input(str(path), dataclasses.replace(settings, **changes), wanted, spool=tmp_path)
        return [row.texts and row.texts["text"] for row in found.rows()], found

    return read


@pytest.mark.parametrize(
    ("name", "content", "key", "is_named"),
    [
        ("in.csv", "id,body\n1,one\n2,two\n", "body", True),
        ("in.csv", "id,text\n1,one\n2,two\n", "review", False),  # found by name in training, called otherwise here
        ("in.csv", "id,review\n1,one\n2,two\n", 1, False),  # a position there, a header here
        ("in.csv", "one\ntwo\n", "text", True),  # one column, no header
        ("in.tsv", "7\tone\n8\ttwo\n", 1, False),
        ("in.txt", "one\r\ntwo\r\n", "text", True),
        ("in.json", '[{"a": {"b": "one"}}, {"a": {"b": "two"}}]', "a.b", True),
    ],
)
def test_column_of_training_is_found_in_other_files(name, content, key, is_named, texts):
    assert texts(name, content, Wanted(TEXT, key, is_named))[0] == ["one", "two"]


def test_format_set_for_training_gives_way_to_the_name_of_the_file(texts):
    assert texts("in.jsonl", '{"text": "one"}\n', Wanted(TEXT, "text", True), format="csv")[0] == ["one"]
    assert texts("in.dat", "text\none\n", Wanted(TEXT, "text", True), format="csv")[0] == ["one"]


def test_rows_that_cannot_be_read_are_rows_all_the_same(texts):
    content = '{"text": "one"}\n{"text": ""}\n{broken\n[1]\n{"other": 1}\n{"text": "six"}\n'
    found, rows = texts("in.jsonl", content, Wanted(TEXT, "text", True))
    assert found == ["one", None, None, None, None, "six"]
    reasons = [row.reason for row in rows.rows()]
    assert reasons[1] == "empty text"
    assert reasons[2].startswith("no valid JSON")
    assert reasons[4] == "no 'text'"


def test_columns_of_one_name_are_kept_apart(texts):
    _, rows = texts("in.csv", "text,x,x\none,1,2\n", Wanted(TEXT, "text", True))
    assert next(rows.rows()).values == {"text": "one", "x": "1", "x_2": "2"}


def test_missing_column_says_what_to_type(texts):
    with pytest.raises(DataError, match=r"no column 'body'; its columns: 'id' .*'words' .*type data.columns.text=NAME"):
        texts("in.csv", "id,words\n1,one\n", Wanted(TEXT, "body", True))


def test_missing_file_is_no_hub_name(settings, tmp_path):
    with pytest.raises(DataError, match="input: 'owner/name' does not exist"):
        open_input("owner/name", settings, [Wanted(TEXT, "text", True)], spool=tmp_path)

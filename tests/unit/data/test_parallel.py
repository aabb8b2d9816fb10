"""Two files side by side: how a user names them, which rows they give, and what is said of sides that don't fit."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest

from llmtune.core.errors import DataError
from llmtune.data.roles import SOURCE, TARGET
from llmtune.inference.rows_in import Wanted, open_input

ROLES = (SOURCE, TARGET)
ENGLISH = "A dog runs.\n[Music]\nTwo cats, \"here\".\t{x}\n"
GERMAN = "Ein Hund rennt.\n[Musik]\nZwei Katzen, „hier“.\t{x}\n"


def pairs(rows) -> list[tuple[str, str]]:
    columns = [[json.loads(value) for value in rows[name][:]] for name in ("source", TARGET.kept)]
    assert all(len(texts) == 1 for column in columns for texts in column)
    return [(first[0], second[0]) for first, second in zip(*columns)]


WANTED = list(zip(ENGLISH.splitlines(), GERMAN.splitlines()))


@pytest.mark.parametrize(
    ("given", "format"),
    [
        (["train.en.gz", "train.de.gz"], "auto"),
        (["train.en.gz", "train.de.gz"], "parallel"),
        ("train.{en,de}.gz", "auto"),
        (["train.{en,de}.gz"], "parallel"),
    ],
)
def test_two_files_are_named_as_a_list_or_with_braces(write, read, given, format) -> None:
    write("train.en.gz", gzip.compress(ENGLISH.encode()))
    write("train.de.gz", gzip.compress(GERMAN.encode()))
    raw = read(ROLES, train=given, format=format)
    rows = raw.splits["train"]
    assert pairs(rows) == WANTED
    assert (rows["file"][1], rows["line"][:]) == ("train.en.gz", [1, 2, 3])
    found = raw.report["splits"]["train"]["found"][0]
    assert (found["format"], found["target"]) == ("parallel", "train.de.gz")
    assert found["columns"] == {"source": "source", "target": "target"}


def test_several_pairs_follow_each_other(write, read) -> None:
    write("a.src", ENGLISH)
    write("a.tgt", GERMAN)
    write("more/en/text.txt", "Good morning.\n")
    write("more/de/text.txt", "Guten Morgen.\n")
    rows = read(ROLES, train=["a.src", "a.tgt", "more/{en,de}/text.txt"]).splits["train"]
    assert pairs(rows) == [*WANTED, ("Good morning.", "Guten Morgen.")]
    assert rows["file"][-1] == "more/en/text.txt"


def test_names_that_tell_a_format_are_read_one_after_the_other_unless_asked(write, read) -> None:
    names = [write("train.en.txt", ENGLISH), write("train.de.txt", GERMAN)]
    assert pairs(read(ROLES, train=names, format="parallel").splits["train"]) == WANTED
    with pytest.raises(DataError, match="parallel"):
        read(ROLES, train=names)


def test_only_a_line_feed_ends_a_line(write, read) -> None:
    source, target = "one\u2028two\r\nthree\r\n", "eins\x0bzwei\ndrei"
    rows = read(ROLES, train=[write("t.en", source), write("t.fr", target)]).splits["train"]
    assert pairs(rows) == [("one\u2028two", "eins\x0bzwei"), ("three", "drei")]


def test_sides_of_different_length_are_told_with_both_counts(write, read) -> None:
    write("train.en", "line\n" * 1203)
    write("train.de", "Zeile\n" * 1200)
    with pytest.raises(DataError) as error:
        read(ROLES, train="train.{en,de}")
    assert "train.en: the two sides differ: train.en 1,203 lines and train.de 1,200 lines" in str(error.value)
    with pytest.raises(DataError, match=r"train\.de 1,200 lines and train\.en 1,203 lines"):
        read(ROLES, train="train.{de,en}", on_bad_row="drop")


def test_an_empty_line_is_told_with_its_file(write, read) -> None:
    write("train.en", "one\ntwo\n \nfour\n")
    write("train.de", "eins\n\ndrei\nvier\n")
    with pytest.raises(DataError) as error:
        read(ROLES, train="train.{en,de}")
    assert "train.de:2: empty line" in str(error.value)
    assert "train.en:3: empty line" in str(error.value)
    assert pairs(read(ROLES, train="train.{en,de}", on_bad_row="drop").splits["train"]) == [
        ("one", "eins"), ("four", "vier"),
    ]  # fmt: skip


def test_a_side_that_is_missing_is_told_with_what_to_type(write, read) -> None:
    write("train.en", "one\n")
    with pytest.raises(DataError, match=r"'train\.de' does not exist"):
        read(ROLES, train="train.{en,de}")
    with pytest.raises(DataError, match=r"data\.train='train\.\{en,de\}'"):
        read(ROLES, train="train.en", format="parallel")


def test_rows_are_read_anew_when_the_second_file_changes(write, read) -> None:
    write("t.en", "one\n")
    write("t.de", "eins\n")
    assert pairs(read(ROLES, train="t.{en,de}").splits["train"]) == [("one", "eins")]
    write("t.de", "EINS\n")
    assert pairs(read(ROLES, train="t.{en,de}").splits["train"]) == [("one", "EINS")]


def test_each_side_has_its_own_encoding(write, read) -> None:
    write("t.en", "one\ntwo\n")
    write("t.de", "schön\nüber\n".encode("utf-16"))
    assert pairs(read(ROLES, train="t.{en,de}").splits["train"]) == [("one", "schön"), ("two", "über")]


@pytest.mark.parametrize("format", ["parallel", "auto"])
def test_predict_reads_the_sources_alone(write, settings, tmp_path, format) -> None:
    name = write("new.en", "One.\n\n[Laughter]\n")
    wanted = [Wanted(replace(SOURCE, required=True), "source", False)]
    rows = open_input(name, settings(format=format), wanted, spool=tmp_path, lines=format == "auto")
    assert rows.names == ["source"]
    assert [(row.where, row.texts, row.reason) for row in rows.rows()] == [
        ("new.en:1", {"source": '["One."]'}, None),
        ("new.en:2", None, "empty text"),
        ("new.en:3", {"source": '["[Laughter]"]'}, None),
    ]


def test_names_of_two_sides_of_which_one_is_missing(write, read) -> None:
    write("train.en", "one\n")
    with pytest.raises(DataError, match=r"data\.train: 'train\.de' does not exist; the folder holds train\.en"):
        read(ROLES, train=["train.en", "train.de"])

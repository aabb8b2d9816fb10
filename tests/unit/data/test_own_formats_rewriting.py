"""Translations and summaries in files as users have them: odd names, nesting, no header, several references."""

from __future__ import annotations

import gzip
import json

import pytest

from llmtune.core.errors import DataError
from llmtune.data.roles import SOURCE, TARGET
from llmtune.task.rewriting_rows import joined, references

ROLES = (SOURCE, TARGET)


def texts(rows) -> list[tuple[str, list[str]]]:
    return [(joined(source), references(target)) for source, target in zip(rows["source"][:], rows[TARGET.kept][:])]


def test_nested_pairs_as_hub_sets_have_them(write, read) -> None:
    lines = [{"id": str(n), "translation": {"en": f"House {n}", "de": f"Haus {n}"}} for n in range(3)]
    name = write("opus.jsonl", "\n".join(map(json.dumps, lines)))
    rows = read(ROLES, train=name, source="translation.en", target="translation.de").splits["train"]
    assert texts(rows)[2] == ("House 2", ["Haus 2"])
    back = read(ROLES, train=name, source="translation.de", target="translation.en").splits["train"]
    assert texts(back)[0] == ("Haus 0", ["House 0"])


def test_odd_names_semicolons_and_brackets(write, read) -> None:
    lines = ("Nr;Quelltext;Notiz;Zieltext", "1;[Musik];laut;[Music]",
             '2;"Ja; nein.";;Yes; ', '3;{name} ruft an;x;"{name} calls"')  # fmt: skip
    content = "\n".join(lines)
    with pytest.raises(DataError, match="5 fields instead of 4"):
        read(ROLES, train=write("broken.csv", content), source="Quelltext", target="Zieltext")
    rows = read(ROLES, train=write("paare.csv", content.replace("Yes; ", "Yes")), source="Quelltext", target="Zieltext")
    assert texts(rows.splits["train"]) == [
        ("[Musik]", ["[Music]"]), ("Ja; nein.", ["Yes"]), ("{name} ruft an", ["{name} calls"]),
    ]  # fmt: skip


def test_columns_without_header_by_position(write, read) -> None:
    content = "0.91\tDas ist ein Test.\tThis is a test.\n0.87\tNoch einer.\tAnother one.\n"
    name = write("europarl.tsv.gz", gzip.compress(content.encode()))
    rows = read(ROLES, train=name, source=1, target=2, header=False).splits["train"]
    assert texts(rows) == [("Das ist ein Test.", ["This is a test."]), ("Noch einer.", ["Another one."])]


def test_sentences_and_several_references_as_scitldr_has_them(write, read) -> None:
    lines = [
        {"paper": {"abstract": ["We do this.", "It works."]}, "tldr": ["This works.", "It does."]},
        {"paper": {"abstract": ["我们做了这个。", "很好。"]}, "tldr": ["很好。"]},
    ]
    name = write("papers.jsonl", "\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    rows = read(ROLES, train=name, source="paper.abstract", target="tldr").splits["train"]
    assert texts(rows) == [("We do this. It works.", ["This works.", "It does."]), ("我们做了这个。很好。", ["很好。"])]


def test_references_in_columns_of_their_own(write, read) -> None:
    name = write("refs.csv", "src,ref_a,ref_b\nguten Tag,good day,hello\nja,yes,yeah\n")
    rows = read(ROLES, train=name, source="src", target=["ref_a", "ref_b"]).splits["train"]
    assert texts(rows) == [("guten Tag", ["good day", "hello"]), ("ja", ["yes", "yeah"])]


def test_rows_without_a_side_are_told_with_their_lines(write, read) -> None:
    name = write("holes.csv", "source,target\na,b\n,c\nd,\n")
    with pytest.raises(DataError) as error:
        read(ROLES, train=name)
    assert "holes.csv:3: empty text" in str(error.value)
    assert "holes.csv:4: empty text" in str(error.value)


def test_two_columns_that_might_be_meant_are_asked_for(write, read) -> None:
    name = write("news.csv", "article,summary,title\nlong text,short,shorter\n")
    with pytest.raises(DataError, match="can't tell which column is the target"):
        read(ROLES, train=name)

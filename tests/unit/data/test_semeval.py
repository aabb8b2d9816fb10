"""Files as SemEval-2010 task 8 has them: records, comments, files without labels; broken records by line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmtune.core.errors import DataError
from llmtune.data.files.semeval import looks_like, read_table
from llmtune.data.files.sources import Source
from llmtune.data.forms.entity_pairs import with_marks
from tests.tiny import config_of

GOOD = (
    '1\t"The <e1>storm</e1> caused a <e2>flood</e2>."\nCause-Effect(e1,e2)\nComment: clear\n\n'
    '2\t"A <e1>child</e1> in a <e2>"cradle"</e2>."\r\nOther\r\nComment: two\nlines of it\n\n'
    '3\t<e2>Honey</e2> comes from <e1>bees</e1>\nProduct-Producer(e2,e1)\n'
)


def table_of(folder: Path, text: str):
    file = folder / "records.txt"
    file.write_text(text, encoding="utf-8", newline="")
    return read_table(Source("text", "records.txt", file), config_of("task=relation").data)


def place(entity: dict[str, Any]) -> tuple[int, int]:
    return entity["start"], entity["end"]


def test_records_become_rows_and_comments_are_left_out(tmp_path: Path) -> None:
    table = table_of(tmp_path, GOOD)
    assert table.names == ["text", "head", "tail", "label", "id"]
    rows = [(line, with_marks(row["text"], place(row["head"]), place(row["tail"])), row["label"], row["id"])
            for _, line, row, _ in table.rows()]  # fmt: skip
    assert rows == [
        (1, "The <e1>storm</e1> caused a <e2>flood</e2>.", "Cause-Effect(e1,e2)", "1"),
        (5, 'A <e1>child</e1> in a <e2>"cradle"</e2>.', "Other", "2"),
        (10, "<e2>Honey</e2> comes from <e1>bees</e1>", "Product-Producer(e2,e1)", "3"),
    ]


def test_a_file_without_relations_has_none(tmp_path: Path) -> None:
    table = table_of(tmp_path, '8\t"a <e1>b</e1> <e2>c</e2>"\n9\t"a <e1>d</e1> <e2>e</e2>"\n\n')
    assert table.names == ["text", "head", "tail", "id"]
    assert [row["id"] for _, _, row, _ in table.rows()] == ["8", "9"]


@pytest.mark.parametrize(("record", "reason"), [
    ('7\t"a <e1>b</e1> c"\nOther\n', "no <e2> in the text"),
    ('7\t"a <e1>b <e2>c</e2></e1>"\nOther\n', "<e1> and <e2> stand in each other"),
    ('7\t"a <e1>b</e1> <e2>c</e2>"\nComment: none\n', "no relation between the sentence and its comment"),
    ('7\t"a <e1>b</e1> <e2>c</e2>"\nOther\nOther\n', "2 lines between the sentence and its comment"),
    ('a <e1>b</e1> <e2>c</e2>\nOther\n', "no numbered sentence"),
])  # fmt: skip
def test_broken_records_are_told_by_line(tmp_path: Path, record: str, reason: str) -> None:
    found = list(table_of(tmp_path, f"{GOOD}\n{record}\n{GOOD}").rows())
    assert [row is None for _, _, row, _ in found] == [False] * 3 + [True] + [False] * 3
    shown, line, _, said = found[3]
    assert (shown, line) == ("records.txt", 13)
    assert reason in str(said)


def test_a_file_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no records"):
        table_of(tmp_path, "\n\n")


def test_what_such_a_file_looks_like() -> None:
    assert looks_like(GOOD.splitlines())
    assert not looks_like(["text\tlabel", "a <e1>b</e1> <e2>c</e2>\tOther"])
    assert not looks_like(["1\tan <e1>a</e1> <e2>b</e2>\tOther", "2\tan <e1>a</e1> <e2>b</e2>\tOther"])
    assert not looks_like([])

"""Relations in the format of SemEval-2010 task 8: a numbered sentence with two marked entities, its relation below.

    8001<TAB>"The most common <e1>audits</e1> were about <e2>waste</e2> and recycling."
    Message-Topic(e1,e2)
    Comment: Assuming an audit = an audit document.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from llmtune.config.settings import DataSettings
from llmtune.core.errors import DataError, Fault
from llmtune.data.files.sources import Source
from llmtune.data.files.tables import Line, Table
from llmtune.data.files.text_encoding import find_encoding, open_text, reading
from llmtune.data.forms.entity_pairs import check_marks, unmarked
from llmtune.data.forms.values import BadValue

SENTENCE = re.compile(r"(\S+)(?:\t\s*|\s+(?=[\"“]))(.*)")
"""its number, and the text"""
COMMENT = "Comment:"
QUOTES = (('"', '"'), ("“", "”"))
SAMPLE_ROWS = 200


def looks_like(lines: list[str]) -> bool:
    """Do these first lines hold a numbered sentence with a mark, with a short line below it?"""
    filled = [line.strip("\ufeff \t") for line in lines]
    first = next((place for place, line in enumerate(filled) if line), None)
    if first is None or first + 1 >= len(filled):
        return False
    match = SENTENCE.fullmatch(filled[first])
    below = filled[first + 1]
    return bool(match and match[1].isdigit() and "<e1>" in match[2] and below and "<e1>" not in below)


def read_table(source: Source, settings: DataSettings) -> Table:
    """Rows of text (without marks), head, tail, label and id, `line` being that of the sentence; comments are left out.

    A record whose marks are not right, or without a label where others have one, is a bad row. Files without labels,
    as they are given out for a test, have none.

    Raises:
        DataError: the file holds no record.
    """
    encoding = find_encoding(source.path, source.shown, settings.encoding)

    def lines() -> Iterator[tuple[int, str]]:
        with reading(source.shown, encoding.name), open_text(source.path, encoding) as file:
            yield from enumerate((line.strip("\ufeff\r\n\t ") for line in file), 1)

    def rows(labelled: bool) -> Iterator[Line]:
        for record in _records(lines()):
            yield _row(source.shown, record, labelled)

    first = list(itertools.islice(_records(lines()), SAMPLE_ROWS))
    if not first:
        raise DataError(Fault(source.shown, "holds no records", "a numbered sentence, its relation on the next line"))
    labelled = any(len(_said(record)) > 1 for record in first)
    names = ["text", "head", "tail", *(["label"] if labelled else []), "id"]
    sample = [row for _, _, row, _ in itertools.islice(rows(labelled), SAMPLE_ROWS) if row is not None]
    found = {"encoding": encoding.said}
    return Table(source.shown, names, len(names), lambda: rows(labelled), sample, found, fixed=True)


def _records(lines: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Lines of one record after another; a blank line ends one, and so does the next numbered sentence."""
    record: list[tuple[int, str]] = []
    for number, line in lines:
        starts = "\t" in line and SENTENCE.fullmatch(line) and line.split("\t")[0].isdigit()
        if record and (not line or starts):
            yield record
            record = []
        if line:
            record.append((number, line))
    if record:
        yield record


def _said(record: list[tuple[int, str]]) -> list[str]:
    """Lines of a record before its comment, which may go over several."""
    return list(itertools.takewhile(lambda line: not line.startswith(COMMENT), (line for _, line in record)))


def _row(shown: str, record: list[tuple[int, str]], labelled: bool) -> Line:
    number, said = record[0][0], _said(record)
    match = SENTENCE.fullmatch(said[0]) if said else None
    if match is None:
        return shown, number, None, "no numbered sentence: NUMBER, a tab, and the text"
    if labelled and len(said) != 2:
        given = "no relation" if len(said) < 2 else f"{len(said) - 1} lines"
        return shown, number, None, f"{given} between the sentence and its comment"
    text = match[2].strip()
    for opening, closing in QUOTES:
        if len(text) > 1 and text.startswith(opening) and text.endswith(closing):
            text = text[1:-1]
    try:
        check_marks(text)
    except BadValue as bad:
        return shown, number, None, str(bad)
    plain, entities = unmarked(text)
    return shown, number, {"text": plain, **entities, **({"label": said[1]} if labelled else {}), "id": match[1]}, None

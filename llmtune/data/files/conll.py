"""CoNLL files: a word a line with its tags beside it, blank lines between rows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from llmtune.config.settings import DataSettings
from llmtune.core.errors import DataError, Fault
from llmtune.data.files.sources import Source
from llmtune.data.files.tables import Line, Table
from llmtune.data.files.text_encoding import Encoding, find_encoding, open_text, reading

DOCUMENT = "-DOCSTART-"
NAMES = "(?:newdoc|newpar|id|sent_id|text)"
COMMENT = re.compile(rf"(?P<sure># +{NAMES}(?: id)? *=[^\t]*)|# {NAMES}\b[^\t]*|#{NAMES} *=[^\t]*")
"""lines of comments as tools write them, by blanks alone; a word may be a plain #, or begin with it"""
BLANKS = re.compile(r"[ \t\u00a0]+")
SAMPLE_ROWS = 200
TAGLIKE = re.compile(r"O|[BIEMSLU]([-_]\S+)?")


def looks_like(lines: list[str]) -> bool:
    """Are these first lines words with a tag each: columns alike on all lines, blank lines between, tags of entities
    in the last column?"""
    filled = [_fields(line) for line in lines if line.strip() and not line.startswith((DOCUMENT, "#"))]
    if len(filled) < 2 or len({len(fields) for fields in filled}) != 1 or not 2 <= len(filled[0]) <= 14:
        return False
    tagged = sum(bool(TAGLIKE.fullmatch(fields[-1])) for fields in filled)
    blank = any(not line.strip() for line in lines)
    short = sum(len(fields[-1]) <= 20 for fields in filled) == len(filled)
    return tagged == len(filled) or (blank and short and len({fields[-1] for fields in filled}) < len(filled))


def read_table(source: Source, settings: DataSettings) -> Table:
    """Rows with `tokens` and `tags`: the first and the last column, unless data.columns names positions.

    Raises:
        DataError: no rows, one column, or positions that the file lacks.
    """
    encoding = find_encoding(source.path, source.shown, settings.encoding)
    first = next((fields for fields in _all_fields(source, encoding) if fields), None)
    if first is None:
        raise DataError(Fault(source.shown, "holds no rows", "a word a line, its tag behind it"))
    places = {
        "tokens": _place(source, settings, "tokens", 0, len(first)),
        "tags": _place(source, settings, "tags", len(first) - 1, len(first)),
    }
    tagged = len(first) > 1
    if not tagged:
        del places["tags"]

    def rows() -> Iterator[Line]:
        return _rows(source, encoding, places)

    sample = [row for _, _, row, _ in itertools.islice(rows(), SAMPLE_ROWS) if row is not None]
    found = {"encoding": encoding.said, "columns_in_file": len(first), "places": places}
    return Table(source.shown, list(places), len(places), rows, sample, found, fixed=True)


def _place(source: Source, settings: DataSettings, role: str, usual: int, width: int) -> int:
    given = getattr(settings.columns, role, None)
    if given is None or given == role:
        return usual
    if isinstance(given, str) and given.lstrip("-").isdigit():
        given = int(given)
    if not isinstance(given, int) or not -width <= given < width:
        raise DataError(
            Fault(f"data.columns.{role}", f"{given!r}, but {source.shown} has {width} columns without names",
                  f"positions 0 to {width - 1}", f"data.columns.{role}={usual}")
        )  # fmt: skip
    return given % width


def _fields(line: str) -> list[str]:
    """Columns of a line: by tabs where it has any, else by blanks."""
    line = line.strip("\r\n \ufeff") if "\t" not in line else line.strip("\r\n\ufeff")
    return [field.strip() for field in line.split("\t")] if "\t" in line else BLANKS.split(line)


def _text_lines(source: Source, encoding: Encoding) -> Iterator[str]:
    with reading(source.shown, encoding.name), open_text(source.path, encoding) as file:
        yield from file


def _all_fields(source: Source, encoding: Encoding) -> Iterator[list[str]]:
    for line in _text_lines(source, encoding):
        if _says_something(line):
            yield _fields(line)


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(DOCUMENT) and not _is_comment(line)


def _is_comment(line: str) -> bool:
    """Is it a line of a tool, and not a word such as #text or # with its tag?"""
    found = COMMENT.fullmatch(line.rstrip())
    return bool(found and (found["sure"] or not TAGLIKE.fullmatch(line.split()[-1])))


def _rows(source: Source, encoding: Encoding, places: dict[str, int]) -> Iterator[Line]:
    """Each row with the line that it begins at; a row with a broken line is a reason."""
    tokens: list[str] = []
    tags: list[str] = []
    begin, width, wrong = 0, 0, None
    number = 0
    for number, line in enumerate(itertools.chain(_text_lines(source, encoding), [""]), 1):
        if _says_something(line):
            fields = _fields(line)
            begin, width = begin or number, width or len(fields)
            if wrong is None:
                wrong = _broken(fields, width, places, number)
            if wrong is None:
                tokens.append(fields[places["tokens"]])
                tags.append(fields[places["tags"]] if "tags" in places else "")
        elif begin and not _is_comment(line):
            yield _row(source, begin, tokens, tags, wrong, "tags" in places)
            tokens, tags, begin, width, wrong = [], [], 0, 0, None


def _broken(fields: list[str], width: int, places: dict[str, int], number: int) -> str | None:
    if len(fields) != width or max(places.values()) >= len(fields):
        return f"line {number} has {len(fields)} column(s), the row's first has {width}"
    empty = [role for role, place in places.items() if not fields[place]]
    if empty:
        return f"line {number} has nothing where the {empty[0][:-1]} stands"
    return None


def _row(
    source: Source, line: int, tokens: list[str], tags: list[str], wrong: str | None, tagged: bool
) -> tuple[str, int, Any, str | None]:
    if wrong is not None:
        return source.shown, line, None, wrong
    return source.shown, line, {"tokens": tokens, **({"tags": tags} if tagged else {})}, None

"""CoNLL-U files, as Universal Dependencies come: ten columns a word, of which the form and one kind of tag are read."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from llmtune.config.settings import DataSettings
from llmtune.core.errors import DataError, Fault, did_you_mean
from llmtune.data.files.sources import Source
from llmtune.data.files.tables import Line, Table
from llmtune.data.files.text_encoding import Encoding, find_encoding, open_text, reading

COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
ID = re.compile(r"[0-9]+([-.][0-9]+)?")
SAMPLE_ROWS = 200


def looks_like(lines: list[str]) -> bool:
    """Ten columns by tabs, a number in the first."""
    words = [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
    return bool(words) and all(len(fields) == len(COLUMNS) and ID.fullmatch(fields[0]) for fields in words)


def read_table(source: Source, settings: DataSettings) -> Table:
    """Rows with `tokens` (FORM) and `tags` (UPOS, unless data.columns.tags names another column).

    Ranges of words that are written as one (1-2) and words that are not written (8.1) are passed over.

    Raises:
        DataError: no rows, or a column that the format lacks.
    """
    encoding = find_encoding(source.path, source.shown, settings.encoding)
    places = {"tokens": _place(settings, "tokens", "FORM"), "tags": _place(settings, "tags", "UPOS")}

    def rows() -> Iterator[Line]:
        return _rows(source, encoding, places)

    sample = [row for _, _, row, _ in itertools.islice(rows(), SAMPLE_ROWS) if row is not None]
    if not sample:
        bad = next(((line, reason) for _, line, _, reason in rows()), None)
        raise DataError(Fault(f"{source.shown}:{bad[0]}", str(bad[1])) if bad else Fault(source.shown, "holds no rows"))
    found = {"encoding": encoding.said, "places": {role: COLUMNS[place] for role, place in places.items()}}
    return Table(source.shown, list(places), len(places), rows, sample, found, fixed=True)


def _place(settings: DataSettings, role: str, usual: str) -> int:
    given = getattr(settings.columns, role, None)
    if given is None or given == role:
        return COLUMNS.index(usual)
    if isinstance(given, int) and 0 <= given < len(COLUMNS):
        return given
    if str(given).upper() in COLUMNS:
        return COLUMNS.index(str(given).upper())
    raise DataError(
        Fault(f"data.columns.{role}", f"{given!r} is no column of CoNLL-U", f"its columns: {', '.join(COLUMNS)}",
              did_you_mean(str(given).upper(), COLUMNS) or f"data.columns.{role}={usual}")
    )  # fmt: skip


def _rows(source: Source, encoding: Encoding, places: dict[str, int]) -> Iterator[Line]:
    row: dict[str, list[str]] = {role: [] for role in places}
    begin, wrong = 0, None
    with reading(source.shown, encoding.name), open_text(source.path, encoding) as file:
        for number, line in enumerate(itertools.chain(file, [""]), 1):
            line = line.rstrip("\r\n")
            if line.strip():
                if line.startswith("#"):
                    continue
                begin, fields = begin or number, line.split("\t")
                wrong = wrong or _broken(fields, places, number)
                if wrong is None and fields[0].isdigit():
                    for role, place in places.items():
                        row[role].append(fields[place])
            elif begin:
                if wrong is None and not row["tokens"]:
                    wrong = "the sentence has no words"
                yield source.shown, begin, None if wrong else row, wrong
                row, begin, wrong = {role: [] for role in places}, 0, None


def _broken(fields: list[str], places: dict[str, int], number: int) -> str | None:
    if len(fields) != len(COLUMNS):
        return f"line {number} has {len(fields)} columns instead of {len(COLUMNS)}"
    if not ID.fullmatch(fields[0]):
        return f"line {number} has the ID {fields[0]!r}: a number was expected"
    empty = [COLUMNS[place] for place in places.values() if fields[0].isdigit() and not fields[place].strip()]
    return f"line {number} has nothing in {empty[0]}" if empty else None

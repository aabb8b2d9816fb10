"""What `predict` reads: one file of any format, or standard input, row by row, with all of its columns."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtune.config.settings import DataSettings
from llmtune.core.errors import DataError, Fault
from llmtune.data.columns import resolve
from llmtune.data.files.dialect import find_dialect
from llmtune.data.files.layouts import layout_of
from llmtune.data.files.sources import Source, find_sources, format_of
from llmtune.data.files.tables import Table, open_table
from llmtune.data.files.text_encoding import find_encoding, open_text, reading
from llmtune.data.forms.values import BadValue
from llmtune.data.roles import Role
from llmtune.inference.run_folder import naming_columns

STDIN = "standard input"
TEXT_FORMATS = ("csv", "tsv", "json", "jsonl")


@dataclass(frozen=True)
class InputRow:
    where: str
    """`file:line`"""
    values: dict[str, Any]
    """by column, as the input has them; empty for a row that can't be read"""
    texts: dict[str, str] | None
    """role -> text; None where there is nothing to predict from"""
    reason: str | None = None
    """why there is nothing"""


@dataclass(frozen=True)
class Input:
    table: Table
    names: list[str]
    """of the input's columns, no two alike; `column_0` and so on where it has no header"""
    chosen: dict[str, Any]
    """role -> resolved column"""
    is_json: bool
    converters: dict[str, Any]
    """role -> how a value is kept"""
    check: Callable[[dict[str, str]], Any] | None = None
    """what looks whether the columns of a row fit together; raises BadValue"""

    def rows(self) -> Iterator[InputRow]:
        """Every row of the input, those that can't be read included."""
        for shown, line, row, reason in self.table.rows():
            texts: dict[str, str] | None = None
            if row is not None:  # gold that is wrong, if there is any, is not looked at
                reason = None
                try:
                    texts = {role: self.converters[role](column.get(row)) for role, column in self.chosen.items()}
                    if self.check is not None:
                        self.check(texts)
                except BadValue as bad:
                    texts, reason = None, str(bad)
            yield InputRow(f"{shown}:{line}", self._values(row), texts, reason)

    def _values(self, row: Any) -> dict[str, Any]:
        return {} if row is None else row if isinstance(row, dict) else dict(zip(self.names, row))

    def all_names(self) -> list[str]:
        """Names of all columns; JSON rows may bring further ones later in the file, which is read to its end."""
        if not self.is_json:
            return self.names
        return list(dict.fromkeys(name for _, _, row, _ in self.table.rows() if row is not None for name in row))


@dataclass(frozen=True)
class Wanted:
    """A column that holds texts."""

    role: Role
    key: Any
    """as typed for this input, else that of the training rows"""
    is_named: bool
    """by the user, then or now; else it was found in training by its name, and another file may call it differently"""


def open_input(
    path: str | None, settings: DataSettings, wanted: Sequence[Wanted], *, spool: Path, lines: bool = False,
    task: Any = None,
) -> Input:  # fmt: skip
    """Look into the input and settle which of its columns hold the texts.

    Args:
        path: a file; None or `-`: standard input, copied into `spool` first.
        lines: the input is one text a line.
        task: whose rows these are: it may know formats of its own, and what makes a row (`check_row`).
    Raises:
        DataError: it can't be read, or its columns don't tell.
    """
    lines = lines or (settings.format == "parallel" and format_of(Path(path or "")) is None)  # of the sources alone
    format = "lines" if lines else settings.format
    source = _stdin(spool, settings, wanted, lines) if path in (None, "-") else _source(str(path), format)
    keys = {column.role.name: column.key for column in wanted}
    roles = [role.name for role in getattr(task, "roles", ())]
    if lines or (source.format == "text" and not layout_of(source, settings, roles) and _one_column(source, settings)):
        table = _lines(source, settings, [column.role for column in wanted])
    else:
        named = dataclasses.replace(settings.columns, **keys)
        known = {name for column in wanted for name in column.role.guesses} | {"id", "idx", "index"}
        table = open_table(source, dataclasses.replace(settings, columns=named), known, roles)
        keys = {column.role.name: _key(table, column) for column in wanted}
        if table.names is None and table.width == 1 and len(keys) == 1:
            keys = dict.fromkeys(keys, 0)
    with naming_columns():
        chosen = resolve(table, [column.role for column in wanted], keys)
    names = table.names if table.names is not None else [f"column_{i}" for i in range(table.width)]
    converters = {column.role.name: column.role.convert for column in wanted}
    is_json = bool(table.sample) and isinstance(table.sample[0], dict)
    return Input(table, _unlike(names), chosen, is_json, converters, getattr(task, "check_row", None))


def _unlike(names: Sequence[str]) -> list[str]:
    """A header may hold a name twice; the second becomes `name_2`."""
    found: list[str] = []
    for name in names:
        number, tried = 1, name
        while tried in found:
            number += 1
            tried = f"{name}_{number}"
        found.append(tried)
    return found


def _key(table: Table, column: Wanted) -> Any:
    """A column of training in another file; None (look for it) where it was only found, and is not here."""
    here = range(table.width) if table.names is None else table.names
    return column.key if column.is_named or column.key in here else None


def _source(path: str, format: str) -> Source:
    told = format_of(Path(path))
    try:
        sources = find_sources("test", path, "auto" if told or format == "text_folders" else format)
    except DataError as error:
        faults = [dataclasses.replace(fault, where="input") for fault in error.faults if isinstance(fault, Fault)]
        raise DataError(*faults) from error
    if sources[0].format == "hub":
        raise DataError(Fault("input", f"{path!r} does not exist", f"looked from {os.getcwd()}"))
    if len(sources) > 1:
        raise DataError(Fault("input", f"{path!r} is {len(sources)} files", "one file at a time"))
    return sources[0]


def _stdin(spool: Path, settings: DataSettings, wanted: Sequence[Wanted], lines: bool) -> Source:
    """Standard input as a file, so that it can be looked into before it is read."""
    if sys.stdin.isatty():
        print("reading one text a line; Ctrl-D ends", file=sys.stderr)
    target = spool / "input"
    with target.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    if not target.stat().st_size:
        raise DataError(Fault(STDIN, "is empty"))
    source = Source("text", STDIN, target)
    if lines:
        return source
    told = settings.format if settings.format in TEXT_FORMATS else _format_inside(source, settings, wanted)
    return dataclasses.replace(source, format=told)


def _format_inside(source: Source, settings: DataSettings, wanted: Sequence[Wanted]) -> str:
    """JSON by the first line, CSV where that is a header which names the column of the texts, else plain text."""
    encoding = find_encoding(source.path, source.shown, settings.encoding)
    with reading(source.shown, encoding.name), open_text(source.path, encoding) as file:
        first = file.readline().strip()
    if re.match(r"\[\s*(\{|$)", first):
        return "json"
    with contextlib.suppress(ValueError):
        if isinstance(json.loads(first), dict):
            return "jsonl"
    keys = {str(column.key) for column in wanted if column.role.required and column.key is not None}
    if len(keys) > 1:  # several texts a row can't be one text a line
        return "csv"
    is_header = any(keys <= {name.strip().strip('"') for name in first.split(mark)} for mark in ",\t;|")
    return "csv" if is_header else "text"


def _one_column(source: Source, settings: DataSettings) -> bool:
    """Does a file of plain text hold one text a line, or columns?"""
    if source.shown == STDIN:
        return True
    encoding = find_encoding(source.path, source.shown, settings.encoding)

    def read() -> Iterator[str]:
        with reading(source.shown, encoding.name), open_text(source.path, encoding) as file:
            yield from file

    dialect = find_dialect(read, format="text", delimiter=settings.delimiter, quote=settings.quote, shown=source.shown)
    return dialect.delimiter is None


def _lines(source: Source, settings: DataSettings, roles: Sequence[Role]) -> Table:
    """One text a line; an empty line is a row too, since every line is to be answered."""
    asked = [role for role in roles if role.name == "text" or (role.required and role.unless != "text")]
    known = {role.name for role in asked}
    needed = [role.name for role in asked if role.kind != "json" or role.unless not in known]  # a line is a prompt
    if len(needed) != 1:
        raise DataError(Fault(source.shown, "holds one text a line", f"each row needs {' and '.join(needed)}",
                              "give CSV with a header, or JSONL"))  # fmt: skip
    encoding = find_encoding(source.path, source.shown, settings.encoding)

    def rows() -> Iterator[tuple[str, int, Any, str | None]]:
        with reading(source.shown, encoding.name), open_text(source.path, encoding) as file:
            for number, line in enumerate(file, 1):
                yield source.shown, number, [line.rstrip("\r\n")], None

    return Table(source.shown, needed, 1, rows, fixed=True)


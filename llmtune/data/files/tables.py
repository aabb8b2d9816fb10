"""Files of any format as one thing: a table with names (or positions), a sample of rows, and a stream of rows."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from llmtune.config.settings import DataSettings
from llmtune.core.errors import DataError, Fault
from llmtune.data.files import layouts
from llmtune.data.files.dialect import NAMES, find_dialect, looks_like_header
from llmtune.data.files.layouts import layout_of
from llmtune.data.files.sources import Source, class_folders
from llmtune.data.files.text_encoding import Encoding, find_encoding, open_bytes, open_text, reading

SAMPLE_ROWS = 200
CHUNK_CHARS = 1 << 20
Line = tuple[str, int, Any, "str | None"]
"""file as shown, line from 1, the row (a list of fields or a dict), or None and what is wrong with it; a row and
what is wrong: only its gold is"""


class Spelled(str):
    """A JSON number as it is written in the file: `1`, `1.0` and `1e-5` stay themselves."""


@dataclass
class Table:
    shown: str
    names: list[str] | None
    """None: no header, columns are positions"""
    width: int
    rows: Callable[[], Iterator[Line]]
    sample: list[Any] = field(default_factory=list)
    """first good rows"""
    found: dict[str, Any] = field(default_factory=dict)
    """what was found out about the file, for the report"""
    fixed: bool = False
    """columns are given by the format"""
    folder: Path | None = None
    """where paths that its rows name begin; None: where the program runs"""

    def inside(self, key: str | int) -> str | int:
        """The key of a column in a row of this table, from a name or a position."""
        if self.sample and isinstance(self.sample[0], dict):
            return self.names[key] if isinstance(key, int) and self.names else key
        return self.names.index(key) if isinstance(key, str) and self.names and key in self.names else key


def open_table(source: Source, settings: DataSettings, known: set[str], roles: Collection[str] = ()) -> Table:
    """Looks into a source; reads no more than it must. DataError.

    Args:
        known: names that may stand in a header.
        roles: what the task asks for.
    """
    layout = layout_of(source, settings, roles)
    if layout is not None:
        table = layouts.module_of(layout).read_table(source, settings)
        source = replace(source, format=layout)
    elif source.format == "parquet":
        table = _parquet(source)
    elif source.format == "text_folders":
        table = _text_folders(source, settings)
    elif source.format == "lines":
        table = _text_lines(source, settings)
    else:
        encoding = find_encoding(source.path, source.shown, settings.encoding)
        reader = {"csv": _delimited, "tsv": _delimited, "text": _delimited, "json": _json, "jsonl": _json}[
            source.format
        ]
        table = reader(source, encoding, settings, known)
        table.found = {"encoding": encoding.said, **table.found}
    if not table.sample:
        table.sample = [row for _, _, row, _ in itertools.islice(table.rows(), SAMPLE_ROWS) if row is not None]
    table.found = {"format": source.format, **table.found}
    table.folder = source.path.parent if source.path.name == Path(source.shown).name else None
    return table


def _lines(source: Source, encoding: Encoding) -> Iterator[str]:
    with reading(source.shown, encoding.name), open_text(source.path, encoding) as file:
        yield from file


def _delimited(source: Source, encoding: Encoding, settings: DataSettings, known: set[str]) -> Table:
    shown = source.shown
    dialect = find_dialect(
        lambda: _lines(source, encoding),
        format=source.format,
        delimiter=settings.delimiter,
        quote=settings.quote,
        shown=shown,
    )
    sample = [
        fields
        for _, fields, _ in itertools.islice(dialect.rows(_lines(source, encoding), shown), SAMPLE_ROWS)
        if fields
    ]
    if not sample:
        raise DataError(Fault(shown, "holds no rows"))
    named = {name for name in _flat(*vars(settings.columns).values()) if isinstance(name, str)}
    stripped = [name.strip() for name in sample[0]]
    if settings.header == "auto":
        header = bool(named & set(stripped)) or looks_like_header(sample[0], sample[1:], known)
    else:
        header = bool(settings.header)
    if header:
        dialect = replace(dialect, width=len(stripped))
    width = dialect.width

    def rows() -> Iterator[Line]:
        skip = header
        for line, fields, reason in dialect.rows(_lines(source, encoding), shown):
            if skip:
                skip = False
            elif fields is None:
                yield shown, line, None, reason
            elif len(fields) != width:
                yield shown, line, None, f"{len(fields)} fields instead of {width}"
            else:
                yield shown, line, fields, None

    good = [row for row in sample[header:] if len(row) == width]
    if not good:
        raise DataError(
            Fault(
                shown,
                "holds no rows besides its header"
                if header and len(sample) == 1
                else "no row has as many fields as the header",
            )
        )
    found = {
        "delimiter": NAMES.get(dialect.delimiter, dialect.delimiter),
        "quote": dialect.quote or "none",
        "header": header,
        **({"escape": dialect.escape} if dialect.escape else {}),
        **({"spaces": "around names stripped"} if header and stripped != sample[0] else {}),
    }
    return Table(shown, stripped if header else None, width, rows, good, found)


def _flat(*values: Any) -> list[Any]:
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def _json(source: Source, encoding: Encoding, settings: DataSettings, known: set[str]) -> Table:
    shown = source.shown
    with reading(shown, encoding.name), open_text(source.path, encoding) as file:
        array = file.read(4096).lstrip()[:1] == "["
    if not array and source.format == "json":
        _refuse_one_object(source, encoding)

    def rows() -> Iterator[Line]:
        with reading(shown, encoding.name), open_text(source.path, encoding) as file:
            for line, value, reason in _array_items(file, shown) if array else _json_lines(file):
                if reason is None and not isinstance(value, dict):
                    value, reason = None, f"a JSON {type(value).__name__} instead of an object"
                yield shown, line, value, reason

    sample = [row for _, _, row, _ in itertools.islice(rows(), SAMPLE_ROWS) if row is not None]
    if not sample:
        bad = next(((line, reason) for _, line, _, reason in rows()), None)
        raise DataError(Fault(f"{shown}:{bad[0]}", str(bad[1])) if bad else Fault(shown, "holds no rows"))
    names = list(dict.fromkeys(name for row in sample for name in row))
    return Table(shown, names, len(names), rows, sample, {"layout": "array" if array else "one object a line"})


DECODER = json.JSONDecoder(parse_float=Spelled, parse_int=Spelled, parse_constant=Spelled)


def _json_lines(file: TextIO) -> Iterator[tuple[int, Any, str | None]]:
    for number, line in enumerate(file, 1):
        line = line.strip()
        if line:
            try:
                yield number, DECODER.decode(line), None
            except (json.JSONDecodeError, RecursionError) as error:
                yield (
                    number,
                    None,
                    f"no valid JSON ({getattr(error, 'msg', 'nested too deep')}, column {getattr(error, 'colno', 1)})",
                )


def _array_items(file: TextIO, shown: str) -> Iterator[tuple[int, Any, str | None]]:
    """The items of one big array, one after another, so that a file may be larger than memory."""
    buffer, at, line, step, started = "", 0, 1, CHUNK_CHARS, False
    while True:
        skipped = len(buffer) - len(buffer[at:].lstrip(" \t\r\n" + (",[" if not started else ","))) if buffer else 0
        line += buffer.count("\n", at, skipped)
        started = started or skipped > at
        at = skipped
        try:
            if at < len(buffer) and buffer[at] == "]":
                return
            value, end = DECODER.raw_decode(buffer, at)
            if end == len(buffer) and not isinstance(value, (dict, list)):
                raise json.JSONDecodeError("cut number", buffer, end)
        except json.JSONDecodeError as error:
            more = file.read(step)
            if not more:
                where = f"{shown}:{line + buffer.count(chr(10), at, error.pos)}"
                raise DataError(
                    Fault(where, f"no valid JSON ({error.msg})", "a list of objects, or one object a line")
                ) from None
            buffer, at, step = buffer[at:] + more, 0, step * 2
            continue
        yield line, value, None
        line += buffer.count("\n", at, end)
        at, step = end, CHUNK_CHARS


def _refuse_one_object(source: Source, encoding: Encoding) -> None:
    """A .json file that is neither an array nor one object a line."""
    first = next(_lines(source, encoding), "")
    try:
        DECODER.decode(first)
    except json.JSONDecodeError:
        raise DataError(
            Fault(
                source.shown,
                "is one JSON object, or no JSON",
                "a list of objects ([{...}, ...]) or one object a line",
                "pandas: to_json(path, orient='records', lines=True)",
            )
        ) from None


def _parquet(source: Source) -> Table:
    import pyarrow
    import pyarrow.parquet

    @contextlib.contextmanager
    def opened() -> Iterator[pyarrow.parquet.ParquetFile]:
        if source.path.suffix.lower() in (".parquet", ".pq"):
            with reading(source.shown), pyarrow.parquet.ParquetFile(source.path) as file:
                yield file
            return
        # Parquet is read from its end, so a compressed one can't be streamed
        with reading(source.shown), tempfile.TemporaryFile() as unpacked, open_bytes(source.path) as packed:
            shutil.copyfileobj(packed, unpacked)
            yield pyarrow.parquet.ParquetFile(unpacked)

    def rows() -> Iterator[Line]:
        line = 0
        with opened() as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    line += 1
                    yield source.shown, line, row, None

    try:
        with opened() as file:
            names = list(file.schema_arrow.names)
    except pyarrow.ArrowInvalid as error:
        raise DataError(Fault(source.shown, f"is no Parquet file: {error}")) from error
    return Table(source.shown, names, len(names), rows)


def _text_folders(source: Source, settings: DataSettings) -> Table:
    folders = class_folders(source)
    root = Path(source.shown)

    def rows() -> Iterator[Line]:
        for folder in folders:
            for path in sorted(
                child for child in folder.iterdir() if child.is_file() and not child.name.startswith(".")
            ):
                shown = str(root / folder.name / path.name)
                encoding = find_encoding(path, shown, settings.encoding)
                with reading(shown, encoding.name), open_text(path, encoding) as file:
                    yield shown, 1, {"text": file.read(), "label": folder.name}, None

    classes = [folder.name for folder in folders]
    return Table(source.shown, ["text", "label"], 2, rows, found={"classes": classes}, fixed=True)


def _text_lines(source: Source, settings: DataSettings) -> Table:
    """One text a line, whatever marks stand in it; empty lines are passed over."""
    encoding = find_encoding(source.path, source.shown, settings.encoding)

    def rows() -> Iterator[Line]:
        with reading(source.shown, encoding.name), open_text(source.path, encoding) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield source.shown, number, [line.strip()], None

    found = {"encoding": encoding.said, "layout": "one text a line"}
    return Table(source.shown, ["text"], 1, rows, found=found, fixed=True)

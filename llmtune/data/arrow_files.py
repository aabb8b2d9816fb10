"""Arrow stream files: written in bounded batches, copied by row number, opened memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow

if TYPE_CHECKING:
    import datasets

BATCH_ROWS, BATCH_CHARS = 2000, 4_000_000


def open_arrow(path: Path) -> datasets.Dataset:
    """The rows of a file, memory-mapped."""
    import datasets

    return datasets.Dataset.from_file(str(path))


def column_list(rows: datasets.Dataset, name: str) -> list[Any]:
    """A whole column as a list; many times faster than through `rows[name]`."""
    return rows.data.column(name).to_pylist() if rows._indices is None else list(rows[name])


def row_values(rows: datasets.Dataset, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The values of some columns, row by row; a thousand rows are held at a time."""
    for batch in rows.with_format(None).select_columns(list(names)).iter(1000):
        yield from zip(*(batch[name] for name in names))


class RowWriter:
    """Rows into an Arrow stream file, in batches bounded by rows and by characters."""

    def __init__(self, path: Path, schema: pyarrow.Schema):
        self.schema, self.path = schema, path
        self.rows: list[list[Any]] = []
        self.chars = 0

    def __enter__(self) -> RowWriter:
        self.file = pyarrow.OSFile(str(self.path), "wb")
        self.stream = pyarrow.ipc.new_stream(self.file, self.schema)
        return self

    def add(self, row: list[Any]) -> None:
        self.rows.append(row)
        self.chars += sum(len(value) for value in row if type(value) is str)
        if len(self.rows) >= BATCH_ROWS or self.chars >= BATCH_CHARS:
            self._flush()

    def _flush(self) -> None:
        if self.rows:
            arrays = [pyarrow.array(values, type=field.type) for values, field in zip(zip(*self.rows), self.schema)]
            self.stream.write_batch(pyarrow.record_batch(arrays, schema=self.schema))
            self.rows, self.chars = [], 0

    def __exit__(self, *_: object) -> None:
        self._flush()
        self.stream.close()
        self.file.close()


def copy_rows(source: Path, target: Path, rows: Any) -> None:
    """Copies the rows with these numbers (ascending) from one Arrow stream file to another, batch by batch."""
    with pyarrow.OSFile(str(source)) as origin, pyarrow.OSFile(str(target), "wb") as file:
        reader = pyarrow.ipc.open_stream(origin)
        with pyarrow.ipc.new_stream(file, reader.schema) as stream:
            start = 0
            for batch in reader:
                here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + batch.num_rows)] - start
                if len(here):
                    stream.write_batch(batch if len(here) == batch.num_rows else batch.take(pyarrow.array(here)))
                start += batch.num_rows

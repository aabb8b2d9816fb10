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


class ChunkedValues:
    """Arrays that stand end to end as one, each where it lies: no slice that is asked for goes across two of them."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, asked: slice) -> np.ndarray:
        part = min(int(np.searchsorted(self._ends, asked.start, side="right")), len(self.parts) - 1)
        before = int(self._ends[part]) - len(self.parts[part])
        return self.parts[part][asked.start - before : asked.stop - before]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self.parts).astype(dtype or self.parts[0].dtype, copy=False)


def flat_lists(dataset: datasets.Dataset, name: str) -> tuple[np.ndarray | ChunkedValues, np.ndarray]:
    """All lists of a column end to end, left where they lie in the memory-mapped file; and where each begins (one more
    than there are rows)."""
    table = dataset.data.table if dataset._indices is None else dataset.flatten_indices().data.table
    flats, starts, at = [], [np.zeros(1, dtype=np.int64)], 0
    for chunk in table.column(name).chunks:
        offsets = np.asarray(chunk.offsets, dtype=np.int64)
        if len(chunk):
            flats.append(np.asarray(chunk.values)[offsets[0] : offsets[-1]])
            starts.append(offsets[1:] - offsets[0] + at)
            at += int(offsets[-1] - offsets[0])
    if len(flats) <= 1:
        return flats[0] if flats else np.zeros(0, dtype=np.int64), np.concatenate(starts)
    return ChunkedValues(flats), np.concatenate(starts)

"""What a model made of all rows: kept on the disk as it comes, read back in chunks, so that rows cost no memory.

Legend: N rows.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmtune.core.errors import Fault, LlmtuneError

CHUNK_ROWS = 1000
MOST_DIMENSIONS = 4
BUFFER_BYTES = 1 << 20
NOT_SHOWN = ("input_ids", "token_type_ids", "length", "cuts", "target", "verdict", "other")
"""columns of encoded rows that are of no use without the model"""


class Outcomes:
    """An array for each of N rows, of any shape, as fp32 in a temporary file; in memory are 8 bytes a row."""

    def __init__(self, num_rows: int):
        self._starts_N = np.full(num_rows, -1, dtype=np.int64)
        self._file, path = tempfile.mkstemp(prefix="llmtune-")
        os.unlink(path)  # it is gone with the process, however that ends
        weakref.finalize(self, os.close, self._file)
        self._unwritten = bytearray()
        self._end = 0

    def __len__(self) -> int:
        return len(self._starts_N)

    def __contains__(self, row: int) -> bool:
        return bool(self._starts_N[row] >= 0)

    def put(self, rows: Sequence[int], arrays: Sequence[np.ndarray]) -> None:
        """Keep the arrays of these rows. Raises LlmtuneError where the disk takes no more."""
        for row, array in zip(rows, arrays, strict=True):
            head = np.zeros(1 + MOST_DIMENSIONS, dtype=np.int32)
            head[0], head[1 : 1 + array.ndim] = array.ndim, array.shape
            written = head.tobytes() + np.ascontiguousarray(array, dtype=np.float32).tobytes()
            self._unwritten += written
            self._starts_N[row], self._end = self._end, self._end + len(written)
        if len(self._unwritten) > BUFFER_BYTES:
            self._flush()

    def get(self, row: int) -> np.ndarray:
        """The array of a row. KeyError if none was put."""
        self._flush()
        start, size = int(self._starts_N[row]), 4 * (1 + MOST_DIMENSIONS)
        if start < 0:
            raise KeyError(row)
        head = np.frombuffer(os.pread(self._file, size, start), dtype=np.int32)
        shape = head[1 : 1 + head[0]]
        body = os.pread(self._file, 4 * int(np.prod(shape, dtype=np.int64)), start + size)
        return np.frombuffer(body, dtype=np.float32).reshape(shape)

    def _flush(self) -> None:
        try:
            while self._unwritten:
                del self._unwritten[: os.write(self._file, self._unwritten)]
        except OSError as error:
            raise _no_room(error) from error


def _no_room(error: OSError) -> LlmtuneError:
    where = tempfile.gettempdir()
    return LlmtuneError(
        Fault("predictions", f"can't be kept in {where}: {error.strerror or error}", "room on the disk",
              "set TMPDIR to a folder that has it")
    )  # fmt: skip


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows and what the model made of them."""

    columns: dict[str, list[Any]]
    """role -> what is known of the rows, as it is kept: texts, and JSON for all other kinds; `file` and `line`"""
    targets: list[Any] | None
    outputs: list[np.ndarray]
    start: int = 0
    """number of the first row"""

    def __len__(self) -> int:
        return len(self.outputs)


class Predictions:
    """Rows beside their outcomes.

    Args:
        rows: a data set, encoded or raw, in which row n is the one that the outcomes know by that number.
        targets: of all rows, where they are no column of `rows`.
    """

    def __init__(self, rows: Any, outcomes: Outcomes, targets: Any = None):
        self.outcomes = outcomes
        self._targets = targets
        names = [name for name in rows.column_names if name not in NOT_SHOWN and not _is_ids(rows, name)]
        self._rows = rows.with_format(None).select_columns(names)
        self._own = rows.with_format(None).select_columns(["target"]) if "target" in rows.column_names else None

    def __len__(self) -> int:
        return len(self._rows)

    def chunks(self, size: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """All rows in their order; may be asked for again."""
        for start in range(0, len(self), size):
            yield self._chunk(range(start, min(len(self), start + size)))

    def some(self, rows: Sequence[int]) -> Chunk:
        """The rows of these numbers, in this order."""
        return self._chunk(rows)

    def _chunk(self, rows: Sequence[int]) -> Chunk:
        places = list(rows)
        columns = self._rows[rows.start : rows.stop] if isinstance(rows, range) else self._rows[places]
        outputs = [self.outcomes.get(row) for row in places]
        return Chunk(columns, self._targets_of(places), outputs, places[0] if places else 0)

    def _targets_of(self, places: list[int]) -> list[Any] | None:
        if isinstance(self._targets, Outcomes):
            return [_as_written(self._targets.get(row)) if row in self._targets else None for row in places]
        if self._targets is not None:
            return [self._targets[row] for row in places]
        return None if self._own is None else self._own[places]["target"]


def _as_written(target: np.ndarray) -> Any:
    return int(target) if target.ndim == 0 else target.astype(np.int64).tolist()


def _is_ids(rows: Any, name: str) -> bool:
    """Is a column a list of numbers, as encoders make them?"""
    import pyarrow

    kind = rows.data.table.schema.field(name).type
    return pyarrow.types.is_list(kind) and pyarrow.types.is_integer(kind.value_type)

"""Lists of a column are read where they lie, whatever batches the file was written in."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest

from llmtune.data.files.arrow_files import ChunkedValues, flat_lists, open_arrow

ROWS = [[1, 2, 3], [], [4], [], [5, 6], [7], [8, 9, 10, 11], []]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_lists_come_back_from_files_of_any_batches(size: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    schema = pyarrow.schema({"ids": pyarrow.list_(pyarrow.int32())})
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as stream:
        for at in range(0, len(ROWS), size):
            stream.write_batch(pyarrow.record_batch([pyarrow.array(ROWS[at : at + size], schema[0].type)], schema))
    rows = open_arrow(path)
    values, starts = flat_lists(rows, "ids")
    assert isinstance(values, ChunkedValues) == (size < 8)
    assert [values[starts[row] : starts[row + 1]].tolist() for row in range(len(ROWS))] == ROWS
    assert np.asarray(values).tolist() == [token for row in ROWS for token in row]
    assert len(values) == 11
    some, starts = flat_lists(rows.select([6, 0, 1]), "ids")
    assert [some[starts[row] : starts[row + 1]].tolist() for row in range(3)] == [ROWS[6], ROWS[0], []]


def test_a_column_without_rows() -> None:
    empty = datasets.Dataset(pyarrow.table({"ids": pyarrow.array([], pyarrow.list_(pyarrow.int32()))}))
    values, starts = flat_lists(empty, "ids")
    assert len(values) == 0
    assert starts.tolist() == [0]

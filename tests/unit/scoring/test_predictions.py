"""What a model made of rows: read back as it was put, in any order, without costing memory."""

from __future__ import annotations

import errno
import os
import tracemalloc

import datasets
import numpy as np
import pytest

from llmtune.core.errors import LlmtuneError
from llmtune.scoring.predictions import Outcomes, Predictions


def test_arrays_of_any_shape_come_back_whatever_order_they_were_put_in():
    rng = np.random.default_rng(0)
    shapes = [(3,), (2, 5), (), (1, 0), (4, 2, 3)]
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    outcomes = Outcomes(len(arrays))
    for row in (3, 0, 4, 2, 1):
        outcomes.put([row], [arrays[row]])
    for row, array in enumerate(arrays):
        found = outcomes.get(row)
        assert found.shape == array.shape
        assert np.array_equal(found, array)


def test_a_row_that_was_never_put_is_told():
    outcomes = Outcomes(2)
    outcomes.put([0], [np.zeros(1)])
    with pytest.raises(KeyError):
        outcomes.get(1)


def test_memory_does_not_grow_with_rows():
    tracemalloc.start()
    outcomes = Outcomes(5000)
    for row in range(5000):  # 20 MB
        outcomes.put([row], [np.full(1000, row, dtype=np.float32)])
    predictions = Predictions(rows_of(5000), outcomes)
    total = sum(float(np.stack(chunk.outputs)[:, 0].sum()) for chunk in predictions.chunks(100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 5000 * 4999 / 2
    assert peak < 6e6


def rows_of(count: int, **columns: list) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": [f"row {n}" for n in range(count)], **columns})


def test_chunks_hold_rows_beside_their_outcomes_and_targets():
    rows = rows_of(5, target=[4, 3, 2, 1, 0], input_ids=[[1, 2]] * 5, words=[[0, 1]] * 5)
    outcomes = Outcomes(5)
    outcomes.put(range(5), [np.array([n]) for n in range(5)])
    first, second = Predictions(rows, outcomes).chunks(3)
    assert first.columns == {"text": ["row 0", "row 1", "row 2"]}  # what only the model reads is left out
    assert (first.targets, second.targets, second.start) == ([4, 3, 2], [1, 0], 3)
    some = Predictions(rows, outcomes).some([4, 0])
    assert some.columns["text"] == ["row 4", "row 0"]
    assert [float(output[0]) for output in some.outputs] == [4, 0]


def test_targets_that_an_encoder_made_come_back_as_they_were():
    outcomes, made = Outcomes(2), Outcomes(2)
    outcomes.put([0, 1], [np.zeros(1)] * 2)
    made.put([0, 1], [np.asarray([1, -100, 2]), np.asarray(7)])
    (chunk,) = Predictions(rows_of(2), outcomes, made).chunks()
    assert chunk.targets == [[1, -100, 2], 7]


def test_a_full_disk_is_told_with_what_helps(monkeypatch):
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    outcomes = Outcomes(1)
    outcomes.put([0], [np.zeros(3)])
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(LlmtuneError, match=r"No space left.*TMPDIR"):
        outcomes.get(0)
    monkeypatch.undo()

"""Rows end to end: each once, none over another, few empty places."""

from __future__ import annotations

import numpy as np
import pytest

from llmtune.data.batches.order import split_step
from llmtune.data.batches.packing import lay_out, worth_packing


def lengths_like(kind: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    return {
        "equal": np.full(count, 17), "short": rng.integers(1, 9, count),
        "skewed": np.minimum(512, rng.lognormal(3.5, 0.9, count).astype(np.int64) + 1),
        "halves": np.full(count, 60) + rng.integers(0, 9, count),
    }[kind]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 7, 64, 300])
@pytest.mark.parametrize("kind", ["equal", "short", "skewed", "halves"])
def test_each_row_has_a_place_of_its_own(kind: str, count: int) -> None:
    lengths = lengths_like(kind, count)
    layout = lay_out(lengths)
    taken = np.zeros((layout.num_sequences, layout.width), dtype=int)
    for length, sequence, start in zip(lengths, layout.sequences_R, layout.starts_R):
        taken[sequence, start : start + length] += 1
    assert taken.max() == 1
    assert taken.sum() == lengths.sum()
    assert layout.width <= 2 * lengths.max()
    assert taken.any(axis=1).all()
    assert layout.num_tokens <= count * lengths.max()


def test_hardly_anything_stays_empty() -> None:
    for kind, least in (("equal", 1.0), ("short", 0.95), ("skewed", 0.9), ("halves", 0.9)):
        lengths = lengths_like(kind, 200)
        assert lengths.sum() / lay_out(lengths).num_tokens >= least, kind


def test_the_layout_is_a_function_of_the_lengths() -> None:
    lengths = lengths_like("skewed", 50)
    first, second = lay_out(lengths), lay_out(lengths.tolist())
    assert np.array_equal(first.sequences_R, second.sequences_R)
    assert np.array_equal(first.starts_R, second.starts_R)


def test_rows_of_one_length_are_left_as_they_are() -> None:
    assert worth_packing([8, 8, 8, 8]) is None
    assert worth_packing([100, 99, 99, 98]) is None
    layout = worth_packing([8, 4, 4])
    assert layout is not None
    assert layout.num_tokens == 16


def test_a_forward_pass_of_packed_rows_holds_its_tokens() -> None:
    lengths = np.sort(lengths_like("skewed", 200))[::-1].copy()
    rows = np.arange(200)
    plain = split_step(rows, lengths, world=1, micro_rows=None, micro_tokens=2048)[0]
    packed = split_step(rows, lengths, world=1, micro_rows=None, micro_tokens=2048, packing=True)[0]
    assert len(packed) < len(plain)
    for some in (plain, packed):
        assert np.array_equal(np.sort(np.concatenate(some)), rows)
    for piece in packed:
        assert len(piece) == 1 or lay_out(lengths[piece]).num_tokens <= 2048
        assert len(piece) == 1 or len(piece) * lengths[piece[0]] < 16 * (2048 + 1)
    assert len(packed) <= 1.2 * np.ceil(lengths.sum() / 2048)

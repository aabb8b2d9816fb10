"""Every row once an epoch, as many steps as planned, like lengths together, the same rows on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest

from llmtune.data.batches.order import Order, evaluation_batches, split_step


def lengths(num_rows: int, seed: int = 0) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).lognormal(3, 0.6, num_rows).astype(int), 3, 200)


@pytest.mark.parametrize("num_rows", [1, 2, 7, 100, 641])
@pytest.mark.parametrize(
    "batch", [(1, None), (8, None), (32, None), (1000, None), (None, 50), (None, 1024), (None, 9**9)]
)
@pytest.mark.parametrize("kind", ["buckets", "random"])
def test_each_row_is_seen_once_an_epoch(num_rows: int, batch: tuple[int | None, int | None], kind: str) -> None:
    order = Order(lengths(num_rows), 1, *batch, kind)
    for epoch in range(3):
        first = epoch * order.steps_per_epoch
        steps = [order.rows_at(first + step) for step in range(order.steps_per_epoch)]
        assert sorted(np.concatenate(steps)) == list(range(num_rows))
        assert all(len(step) for step in steps)


def test_steps_per_epoch_is_rounded_up() -> None:
    assert Order(lengths(33), 1, 32, None).steps_per_epoch == 2
    assert Order(lengths(32), 1, 32, None).steps_per_epoch == 1


def test_tokens_per_step_are_near_the_budget() -> None:
    order = Order(lengths(2000), 1, None, 1024)
    sizes = [int(order.lengths[order.rows_at(step)].sum()) for step in range(order.steps_per_epoch)]
    assert np.mean(sizes) == pytest.approx(1024, rel=0.02)
    assert max(sizes) <= 1024 + 200 + 24


def test_any_step_can_be_asked_for_first() -> None:
    straight, jumping = Order(lengths(100), 5, 8, None), Order(lengths(100), 5, 8, None)
    expected = [straight.rows_at(step) for step in range(30)]
    for step in (29, 3, 14, 0, 28):
        assert np.array_equal(jumping.rows_at(step), expected[step])


def test_epochs_and_seeds_differ() -> None:
    order = Order(lengths(100), 5, 8, None)
    first = {tuple(sorted(order.rows_at(step))) for step in range(13)}
    second = {tuple(sorted(order.rows_at(step))) for step in range(13, 26)}
    assert first != second
    assert not np.array_equal(order.rows_at(0), Order(lengths(100), 6, 8, None).rows_at(0))


def test_buckets_pad_little() -> None:
    def padding(kind: str) -> float:
        order = Order(lengths(4000), 1, 32, None, kind)
        steps = [order.rows_at(step) for step in range(order.steps_per_epoch)]
        return 1 - order.lengths.sum() / sum(len(rows) * order.lengths[rows].max() for rows in steps)

    assert padding("buckets") < 0.12
    assert padding("random") > 0.4


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("num_rows", [1, 2, 5, 32])
def test_a_step_is_split_into_as_many_passes_on_each_rank(world: int, num_rows: int) -> None:
    size = lengths(num_rows)
    rows = np.argsort(-size)
    ranks = split_step(rows, size, world=world, micro_rows=4, micro_tokens=150)
    assert len({len(micros) for micros in ranks}) == 1
    assert sorted(np.concatenate([micro for micros in ranks for micro in micros])) == list(range(num_rows))
    for micro in (micro for micros in ranks for micro in micros if len(micro) > 1):
        assert len(micro) <= 4
        assert len(micro) * size[micro[0]] <= 150


def test_evaluation_takes_every_row_once_longest_first() -> None:
    size = lengths(300)
    batches = evaluation_batches(size, max_tokens=512)
    assert sorted(np.concatenate(batches)) == list(range(300))
    assert size[batches[0][0]] == size.max()
    assert all(len(rows) * size[rows[0]] <= 512 for rows in batches if len(rows) > 1)


def test_evaluation_batches_have_little_padding_once_they_are_full_enough() -> None:
    size = lengths(3000)
    for rows in evaluation_batches(size, max_tokens=8192):
        padded = len(rows) * size[rows[0]]
        assert size[rows].sum() >= 0.98 * padded or padded < 512 + size[rows[0]]


@pytest.mark.parametrize(
    ("world", "micro_rows", "micro_tokens"), [(1, None, 64), (2, 3, 500), (3, None, 90), (1, 1, 9)]
)
def test_passes_are_as_few_as_they_can_be(world: int, micro_rows: int | None, micro_tokens: int) -> None:
    sizes = lengths(70)
    rows = np.argsort(-sizes, kind="stable")
    made = split_step(rows, sizes, world=world, micro_rows=micro_rows, micro_tokens=micro_tokens)

    def fits(per_rank: int) -> bool:
        pieces = np.array_split(rows, world * per_rank)
        return all(
            len(piece) <= 1 or (len(piece) * sizes[piece[0]] <= micro_tokens and len(piece) <= (micro_rows or 70))
            for piece in pieces
        )

    assert len(made[0]) == next(number for number in range(1, 71) if fits(number))

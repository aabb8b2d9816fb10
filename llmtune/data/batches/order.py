"""Which rows go into which optimizer step and which forward pass: a pure function of (seed, epoch, lengths)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from llmtune.core.seeds import generator
from llmtune.data.batches.packing import lay_out

STEPS_PER_POOL = 50
"""steps' worth of shuffled rows that are sorted by length together: long enough for little padding,
short enough that which rows meet in a step differs in every epoch"""

Rows = np.ndarray
"""row indices, int64"""

FULL_ENOUGH = 512
"""tokens from which on an evaluation batch of short rows costs no more per token than a larger one"""
MOST_PADDING = 0.02
"""share of padding at which an evaluation batch ends, once it is full enough"""


@dataclass(frozen=True)
class Order:
    """The order of training.

    Each row is seen exactly once an epoch; the last step of an epoch may be smaller and is weighted by its own
    count. Steps are global: on any number of processes the same rows make the same step.
    """

    lengths: np.ndarray
    """real tokens of each row"""
    seed: int
    batch_rows: int | None
    """rows per optimizer step"""
    batch_tokens: int | None
    """real tokens per optimizer step, on average; one of the two is set"""
    kind: str = "buckets"
    """buckets | random"""
    _epochs: dict[int, list[Rows]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def steps_per_epoch(self) -> int:
        num_rows = len(self.lengths)
        if self.batch_rows:
            return -(-num_rows // self.batch_rows)
        return max(1, min(num_rows, round(int(self.lengths.sum()) / (self.batch_tokens or 1))))

    def rows_at(self, step: int) -> Rows:
        """The rows of optimizer step `step` (counted from 0 over all epochs), longest first."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch not in self._epochs:
            self._epochs.clear()
            self._epochs[epoch] = self._epoch(epoch)
        return self._epochs[epoch][index]

    def _epoch(self, epoch: int) -> list[Rows]:
        rng = generator(self.seed, "order", epoch)
        rows = rng.permutation(len(self.lengths))
        if self.kind == "buckets":
            rows = self._sort_in_pools(rows)
        steps = np.split(rows, self._cuts(rows))
        if self.kind == "buckets":
            steps = [steps[i] for i in rng.permutation(len(steps))]
        return [step[np.argsort(-self.lengths[step], kind="stable")] for step in steps]

    def _sort_in_pools(self, rows: Rows) -> Rows:
        """Sort each pool by length, up and down in turn, so that a step across two pools has like lengths too."""
        # few pools would mean that nearly the same rows always meet: at least four an epoch
        per_step = len(rows) / self.steps_per_epoch
        pool = max(1, int(per_step * min(STEPS_PER_POOL, max(1, self.steps_per_epoch // 4))))
        parts = np.split(rows, np.arange(pool, len(rows), pool))
        turned = [part[np.argsort(self.lengths[part] * (-1) ** i, kind="stable")] for i, part in enumerate(parts)]
        return np.concatenate(turned)

    def _cuts(self, rows: Rows) -> np.ndarray:
        """Positions in `rows` at which a new step begins; steps_per_epoch - 1 of them, rising."""
        if self.batch_rows:
            return np.arange(self.batch_rows, len(rows), self.batch_rows)
        num_steps = self.steps_per_epoch
        tokens_before = np.cumsum(self.lengths[rows])
        shares = tokens_before[-1] * np.arange(1, num_steps) / num_steps
        cuts = np.searchsorted(tokens_before, shares) + 1
        each = np.arange(num_steps - 1)
        cuts = np.maximum.accumulate(cuts - each) + each  # at least one row a step, from the left ...
        return np.minimum(cuts, len(rows) - num_steps + 1 + each)  # ... and from the right


MOST_SPREAD = 16
"""of packed rows: times micro_tokens that their states may take once they stand below each other again"""


def split_step(
    rows: Rows, lengths: np.ndarray, *, world: int, micro_rows: int | None, micro_tokens: int, packing: bool = False
) -> list[list[Rows]]:
    """Cut a step (longest row first) into forward passes: `[rank][micro] -> rows`, equally many for each rank.

    Neighbours in length stay together; a pass has at most `micro_rows` rows and `micro_tokens` tokens with padding
    (one row may exceed that). Where rows are fewer than passes, some are empty. `packing`: tokens are counted as
    they are once rows lie end to end, and each pass has rows of all lengths, since short ones fill up what is left.
    """

    def tokens(piece: Rows) -> int:
        padded = len(piece) * int(lengths[piece[0]])
        if not packing or padded <= micro_tokens:
            return padded
        return max(lay_out(lengths[piece]).num_tokens, padded // MOST_SPREAD)

    least = int(np.minimum(lengths[rows], micro_tokens).sum()) / micro_tokens  # passes, were there no padding
    per_rank = max(1, math.ceil(max(least, len(rows) / (micro_rows or len(rows))) / world))
    while True:
        passes = world * per_rank
        pieces = [rows[at::passes] for at in range(passes)] if packing else np.array_split(rows, passes)
        fits = all(
            len(piece) <= 1
            or (tokens(piece) <= micro_tokens and (not micro_rows or len(piece) <= micro_rows))
            for piece in pieces
        )
        if fits or per_rank >= len(rows):
            return [pieces[rank::world] for rank in range(world)]
        per_rank += 1


def evaluation_batches(lengths: np.ndarray, *, max_tokens: int, max_rows: int = 256) -> list[Rows]:
    """All rows once, longest first, in batches of at most `max_tokens` tokens with padding.

    A batch ends early where shorter rows would need much padding.
    """
    rows = np.argsort(-lengths, kind="stable")
    real_before = np.concatenate([[0], np.cumsum(lengths[rows])])
    batches, start = [], 0
    while start < len(rows):
        width = max(1, int(lengths[rows[start]]))
        most = max(1, min(max_rows, max_tokens // width, len(rows) - start))
        sizes = np.arange(1, most + 1)
        real = real_before[start + sizes] - real_before[start]
        dense = int(np.count_nonzero(real >= sizes * width * (1 - MOST_PADDING)))
        size = min(most, max(dense, -(-FULL_ENOUGH // width)))
        batches.append(rows[start : start + size])
        start += size
    return batches

"""Packing: which rows lie end to end in which sequence, a pure function of their lengths.

Legend: R rows, S sequences that rows are laid into, W their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WIDTHS = (1.0, 1.25, 1.5, 2.0)
"""widths that are tried, in longest rows: attention takes more time the wider, padding is less"""
LEAST_SAVED = 0.03
"""share of a batch's padded tokens that packing must save; below, rows stay as they are"""
FULL = 0.95
"""share of tokens that are real from which on no wider sequences are tried"""


class Layout(NamedTuple):
    """Where each row lies, in the order of the rows."""

    sequences_R: np.ndarray
    starts_R: np.ndarray
    num_sequences: int
    width: int

    @property
    def num_tokens(self) -> int:
        """S x W, with what is left empty."""
        return self.num_sequences * self.width


def lay_out(lengths_R: Sequence[int] | np.ndarray) -> Layout:
    """Rows of these lengths (1 token or more) in few sequences of like width, at most twice that of the longest row.

    First-fit decreasing (Johnson et al. 1974) for each of a few widths; the narrowest is taken that is nearly full,
    else the one with the fewest tokens.
    """
    lengths_R = np.asarray(lengths_R, dtype=np.int64)
    found = []
    for factor in WIDTHS:
        layout = _first_fit(lengths_R, int(lengths_R.max() * factor))
        if int(lengths_R.sum()) >= FULL * layout.num_tokens:
            return layout
        found.append(layout)
    return min(found, key=lambda layout: layout.num_tokens)


def worth_packing(lengths_R: Sequence[int] | np.ndarray) -> Layout | None:
    """The same, or None where padding each row to the longest takes hardly more."""
    layout = lay_out(lengths_R)
    padded = len(lengths_R) * int(np.max(lengths_R))
    return layout if layout.num_tokens <= (1 - LEAST_SAVED) * padded else None


def _first_fit(lengths_R: np.ndarray, width: int) -> Layout:
    """Each row, the longest first, goes into the first sequence that has room; nothing is left over at the right."""
    sequences_R, starts_R = np.zeros_like(lengths_R), np.zeros_like(lengths_R)
    used_R = np.zeros_like(lengths_R)  # as many sequences as rows at most
    for row in np.argsort(-lengths_R, kind="stable"):
        sequence = int(np.argmax(used_R + lengths_R[row] <= width))
        sequences_R[row], starts_R[row] = sequence, used_R[sequence]
        used_R[sequence] += lengths_R[row]
    return Layout(sequences_R, starts_R, int(np.count_nonzero(used_R)), int(used_R.max()))

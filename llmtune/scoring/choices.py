"""Scores of multiple choice: accuracy and the mean reciprocal rank of the right choice; no torch here.

Legend: C choices of a row.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

METRICS = {"accuracy": "max", "mrr": "max", "loss": "min"}
"""metric -> the direction in which it is better"""
DEFAULT_METRIC = "accuracy"


def probabilities(scores_C: np.ndarray) -> np.ndarray:
    """Softmax over the choices of a row: (C,)."""
    shifted_C = np.exp(scores_C.astype(np.float64) - scores_C.max())
    return np.asarray(shifted_C / shifted_C.sum())


@dataclass
class ChoiceScores:
    """Adds up rows one by one."""

    rows: int = 0
    right: int = 0
    reciprocal_ranks: float = 0.0
    chance: float = 0.0
    positions: Counter[int] = field(default_factory=Counter)
    """of the right choices"""

    def add(self, scores_C: np.ndarray, target: int) -> None:
        """Count a row. Choices that score the same share a rank, the worst of them, so that ties never help."""
        rank = int((scores_C >= scores_C[target]).sum())
        self.rows += 1
        self.right += rank == 1
        self.reciprocal_ranks += 1 / rank
        self.chance += 1 / len(scores_C)
        self.positions[target] += 1

    def scores(self) -> dict[str, float]:
        """All metrics but `loss`; and what guessing and always taking the most frequent position would reach."""
        rows = max(1, self.rows)
        return {
            "accuracy": self.right / rows,
            "mrr": self.reciprocal_ranks / rows,
            "chance": self.chance / rows,
            "majority_position": max(self.positions.values(), default=0) / rows,
        }

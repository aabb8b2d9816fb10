"""Scores of multiple choice on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from llmtune.scoring.choices import METRICS, ChoiceScores, probabilities


def test_scores() -> None:
    scores = ChoiceScores()
    scores.add(np.array([2.0, 1.0, 0.0]), 0)  # first
    scores.add(np.array([2.0, 1.0, 0.0]), 2)  # third
    scores.add(np.array([1.0, 1.0]), 1)  # a tie is no hit
    found = scores.scores()
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 2) / 3)
    assert found["chance"] == pytest.approx((1 / 3 + 1 / 3 + 1 / 2) / 3)
    assert found["majority_position"] == pytest.approx(1 / 3)
    assert set(METRICS) - {"loss"} <= set(found)


def test_probabilities_of_large_scores() -> None:
    chances = probabilities(np.array([1000.0, 1000.0, 0.0], dtype=np.float32))
    assert chances == pytest.approx([0.5, 0.5, 0.0])
    assert chances.sum() == pytest.approx(1)

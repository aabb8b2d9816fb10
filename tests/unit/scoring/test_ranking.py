"""scoring.ranking: equal to the plain definitions, ties at the mean over all their orders."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from sklearn import metrics

from llmtune.scoring.ranking import METRICS, of_group, score


def plain(relevance: list[int]) -> dict[str, float]:
    """The metrics of candidates that stand in this order."""
    relevant = [grade > 0 for grade in relevance]
    found = {"mrr": 1 / (relevant.index(True) + 1)}
    for k in (5, 10):
        best = sorted(relevance, reverse=True)
        gain, ideal = (
            sum((2**g - 1) / math.log2(i + 2) for i, g in enumerate(grades[:k])) for grades in (relevance, best)
        )
        found[f"ndcg_{k}"] = gain / ideal
    for k in (1, 5, 10):
        found[f"recall_{k}"] = sum(relevant[:k]) / sum(relevant)
        found[f"hit_{k}"] = float(any(relevant[:k]))
    return found


@pytest.mark.parametrize(
    ("relevance", "scores"),
    [
        ([0, 1, 0], [0.1, 0.9, 0.2]),
        ([0, 1, 0, 2, 0], [3.0, 1.0, 1.0, 1.0, -2.0]),
        ([1, 0, 1, 0, 0, 0, 3], [0.5] * 7),
        ([0, 0, 1, 1], [2.0, 2.0, 2.0, 7.0]),
        ([1], [0.0]),
    ],
)
def test_a_group_is_the_mean_over_all_orders_of_its_ties(relevance: list[int], scores: list[float]) -> None:
    orders = [
        order for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]  # fmt: skip
    naive = [plain([relevance[place] for place in order]) for order in orders]
    found = of_group(np.array(relevance), np.array(scores))
    for name in naive[0]:
        assert found[name] == pytest.approx(np.mean([one[name] for one in naive])), name
    if 0 in relevance:
        truth = np.array(relevance) > 0
        assert found["auc_group"] == pytest.approx(metrics.roc_auc_score(truth, scores))


def test_groups_are_gathered_wherever_their_rows_stand() -> None:
    rng = np.random.default_rng(0)
    groups, relevance = rng.integers(0, 9, 200), rng.integers(0, 3, 200) * (rng.random(200) < 0.3)
    scores = rng.normal(size=200).round(1)
    found = score(groups, relevance, scores)
    ones = [of_group(relevance[groups == g], scores[groups == g]) for g in range(9)]
    ones = [one for one in ones if one]
    assert found["groups"] == len(ones)
    for name in set(METRICS) - {"auc", "loss"}:
        assert found[name] == pytest.approx(np.mean([one[name] for one in ones if name in one])), name
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(relevance > 0, scores))


def test_what_nothing_defines_is_left_out() -> None:
    found = score(np.array([1, 1, 2]), np.zeros(3, dtype=int), np.zeros(3))
    assert found == {"groups": 0.0}
    assert "auc" not in score(np.array([1, 1]), np.ones(2, dtype=int), np.zeros(2))


def test_one_score_for_all_gains_nothing_by_the_order_of_the_file() -> None:
    first, last = np.eye(20, dtype=int)[0], np.eye(20, dtype=int)[-1]
    assert of_group(first, np.zeros(20)) == of_group(last, np.zeros(20))
    assert of_group(first, np.zeros(20))["recall_10"] == pytest.approx(0.5)

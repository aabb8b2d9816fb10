"""Scores of rankings by group, ties at their expected value, from numpy and scikit-learn.

Legend: R candidates of all groups, C candidates of one group, in the order of their scores where it says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import stats
from sklearn import metrics

CUTS = (1, 5, 10)
METRICS: dict[str, str] = {
    "ndcg_10": "max", "ndcg_5": "max", "mrr": "max", **{f"recall_{k}": "max" for k in CUTS},
    **{f"hit_{k}": "max" for k in CUTS}, "auc": "max", "auc_group": "max", "loss": "min",
}  # fmt: skip
"""metric -> the direction in which it is better"""
DEFAULT_METRIC = "ndcg_10"


def score(groups_R: np.ndarray, relevance_R: np.ndarray, scores_R: np.ndarray) -> dict[str, float]:
    """All metrics but `loss`; a metric that no group defines is left out.

    Candidates with equal scores stand in any order: each metric is its mean over all such orders (McSherry and Najork
    2008), so a model that gives every candidate the same score gains nothing by the order of a file.

    `ndcg_k` (gain 2^relevance - 1), `mrr`, `recall_k` and `hit_k` are means over the groups with something relevant;
    `auc_group` over those that also have something else; `auc` is over all candidates together. `groups` counts those
    of the first kind.

    Args:
        groups_R: equal numbers are one group.
        relevance_R: 0, or how relevant a candidate is.
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for relevance_C, scores_C in _by_group(groups_R, relevance_R, scores_R):
        for name, value in of_group(relevance_C, scores_C).items():
            sums[name] = sums.get(name, 0.0) + value
            counts[name] = counts.get(name, 0) + 1
    found = {name: sums[name] / counts[name] for name in METRICS if name in sums}
    relevant_R = relevance_R > 0
    if 0 < relevant_R.sum() < len(relevant_R) and np.isfinite(scores_R).all():
        found["auc"] = float(metrics.roc_auc_score(relevant_R, scores_R))
    return {**found, "groups": float(counts.get("mrr", 0))}


def _by_group(
    groups_R: np.ndarray, relevance_R: np.ndarray, scores_R: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    order = np.argsort(groups_R, kind="stable")
    starts = np.flatnonzero(np.diff(groups_R[order])) + 1
    for members in np.split(order, starts) if len(order) else ():
        yield relevance_R[members], scores_R[members]


def of_group(relevance_C: np.ndarray, scores_C: np.ndarray) -> dict[str, float]:
    """The metrics of one group; nothing where nothing is relevant."""
    relevant_C = relevance_C > 0
    num, num_relevant = len(relevance_C), int(relevant_C.sum())
    if not num_relevant:
        return {}
    order = np.argsort(-scores_C, kind="stable")
    ranked = scores_C[order]
    starts = np.r_[0, np.flatnonzero(ranked[1:] != ranked[:-1]) + 1]
    sizes = np.diff(np.r_[starts, num])
    gains_C = _tied(np.exp2(relevance_C[order].astype(np.float64)) - 1, starts, sizes)
    shares_C = _tied(relevant_C[order].astype(np.float64), starts, sizes)
    ideal_C = np.sort(np.exp2(relevance_C.astype(np.float64)) - 1)[::-1]
    discounts_C = 1 / np.log2(np.arange(num) + 2)
    found = {f"ndcg_{k}": float((gains_C * discounts_C)[:k].sum() / (ideal_C * discounts_C)[:k].sum()) for k in (5, 10)}
    chances_C = _first_relevant(relevant_C[order], starts, sizes)
    found["mrr"] = float((chances_C / (np.arange(num) + 1)).sum())
    for k in CUTS:
        found[f"recall_{k}"] = float(shares_C[:k].sum() / num_relevant)
        found[f"hit_{k}"] = float(chances_C[:k].sum())
    if num_relevant < num:
        ranks_C = stats.rankdata(scores_C)
        above = ranks_C[relevant_C].sum() - num_relevant * (num_relevant + 1) / 2
        found["auc_group"] = float(above / (num_relevant * (num - num_relevant)))
    return found


def _tied(values_C: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """At each place the mean over the run of equal scores that it belongs to."""
    return np.repeat(np.add.reduceat(values_C, starts) / sizes, sizes)


def _first_relevant(relevant_C: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """For each place the chance that the first relevant candidate stands there, equal scores in any order."""
    in_runs = np.add.reduceat(relevant_C.astype(np.int64), starts)
    run = int(np.flatnonzero(in_runs)[0])
    size, hits = int(sizes[run]), int(in_runs[run])
    chances_C = np.zeros(len(relevant_C))
    for place in range(size - hits + 1):
        chances_C[starts[run] + place] = math.comb(size - place - 1, hits - 1) / math.comb(size, hits)
    return chances_C

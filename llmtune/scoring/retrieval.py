"""Scores of sentence vectors: likeness against given scores, and finding a text's partner among all of a split.

Everything is computed in blocks, so that memory does not grow with the square of the rows.

Legend: Q queries and C candidates of a block, N pairs of all blocks, D numbers of a vector.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CUTS = (1, 5, 10)
METRICS: dict[str, str] = {
    "spearman": "max", "pearson": "max", "mrr_10": "max", **{f"recall_{k}": "max" for k in CUTS},
    "alignment": "min", "uniformity": "min", "loss": "min",
}  # fmt: skip
"""metric -> the direction in which it is better"""
TIE = 1e-6
"""cosines nearer than this are equal: the same vector comes out so in another batch"""
MOST_NEIGHBOURS = 1000
"""texts of a block among which uniformity is taken"""


@dataclass(frozen=True)
class Block:
    """Some pairs with their vectors; `texts` are numbers that are equal for equal texts."""

    queries_QD: np.ndarray
    partners_QD: np.ndarray
    query_texts_Q: np.ndarray
    partner_texts_Q: np.ndarray
    others_CD: np.ndarray
    """further candidates: what stood as unlike beside the pairs"""
    other_texts_C: np.ndarray


def correlation(cosines_N: np.ndarray, scores_N: np.ndarray) -> dict[str, float]:
    """Spearman's and Pearson's correlation; nothing where one side is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if len(cosines_N) < 2:
            return {}
        found = {
            "spearman": float(stats.spearmanr(cosines_N, scores_N).statistic),
            "pearson": float(stats.pearsonr(cosines_N, scores_N).statistic),
        }
    return {name: value for name, value in found.items() if np.isfinite(value)}


def shortened(vectors_ND: np.ndarray, width: int | None) -> np.ndarray:
    """The first `width` numbers of each vector, of length 1 again; None: all of them."""
    cut_ND = vectors_ND[:, :width].astype(np.float32)
    return cut_ND / np.maximum(np.linalg.norm(cut_ND, axis=1, keepdims=True), 1e-12)


def uniformity(vectors_ND: np.ndarray) -> tuple[float, int]:
    """Sum of exp(-2 ||x - y||^2) over the pairs of some unit vectors, and the number of pairs (arXiv 2005.10242)."""
    some_ND = vectors_ND[:MOST_NEIGHBOURS]
    num = len(some_ND)
    apart = 2 - 2 * (some_ND @ some_ND.T)
    values = np.exp(-2 * np.maximum(apart, 0.0, dtype=np.float64))
    return float(values.sum() - np.trace(values)) / 2, num * (num - 1) // 2


def retrieval(blocks: Callable[[], Iterable[Block]], widths: Sequence[int | None] = (None,)) -> list[dict[str, float]]:
    """For each width `recall_k` and `mrr_10` of finding each query's partner.

    The corpus is every distinct partner and other text. What is no rival: the query's own text, and other partners of
    the same query. A place is 1 + rivals that are nearer + half of those that are as near.

    Args:
        blocks: gives the same blocks each time it is called; they are read once for each of them, and once more.
    """
    first, known = _survey(blocks)
    totals = [dict.fromkeys(("mrr_10", *(f"recall_{k}" for k in CUTS)), 0.0) for _ in widths]
    num = 0
    for block in blocks():
        near = _places(block, blocks, first, known, widths)
        num += len(block.queries_QD)
        for total, places_Q in zip(totals, near):
            total["mrr_10"] += float(np.where(places_Q <= 10, 1 / places_Q, 0.0).sum())
            for k in CUTS:
                total[f"recall_{k}"] += float((places_Q <= k).sum())
    return [{name: value / num for name, value in total.items()} if num else {} for total in totals]


def _survey(blocks: Callable[[], Iterable[Block]]) -> tuple[np.ndarray, np.ndarray]:
    """Which candidates, in the order of all blocks, are the first with their text; and the known pairs, sorted."""
    texts, pairs = [], []
    for block in blocks():
        texts += [block.partner_texts_Q, block.other_texts_C]
        pairs.append(np.stack([block.query_texts_Q, block.partner_texts_Q], axis=1))
    joined = np.concatenate(texts) if texts else np.zeros(0, dtype=np.int64)
    first = np.zeros(len(joined), dtype=bool)
    first[np.unique(joined, return_index=True)[1]] = True
    return first, np.unique(np.concatenate(pairs), axis=0) if pairs else np.zeros((0, 2), dtype=np.int64)


def _places(
    block: Block, blocks: Callable[[], Iterable[Block]], first: np.ndarray, known: np.ndarray,
    widths: Sequence[int | None],
) -> list[np.ndarray]:  # fmt: skip
    """For each width the place of every query's partner in this block: (Q,), from 1 on."""
    queries = [shortened(block.queries_QD, width) for width in widths]
    own = [(q_QD * shortened(block.partners_QD, width)).sum(axis=1) for q_QD, width in zip(queries, widths)]
    nearer = [np.zeros(len(block.queries_QD)) for _ in widths]
    low, high = (np.searchsorted(known[:, 0], block.query_texts_Q, side) for side in ("left", "right"))
    asking = np.repeat(np.arange(len(low)), high - low)
    answers = known[np.concatenate([np.arange(a, b) for a, b in zip(low, high)]), 1] if len(low) else known[:0, 1]
    asking = np.r_[asking, np.arange(len(low))]
    answers = np.r_[answers, block.query_texts_Q]
    at = 0
    for other in blocks():
        texts_C = np.r_[other.partner_texts_Q, other.other_texts_C]
        fresh = first[at : at + len(texts_C)]
        at += len(texts_C)
        order = np.argsort(texts_C[fresh], kind="stable")
        texts_C = texts_C[fresh][order]
        if not len(texts_C):
            continue
        found = np.minimum(np.searchsorted(texts_C, answers), len(texts_C) - 1)
        none = texts_C[found] == answers
        for place, width in enumerate(widths):
            vectors_CD = shortened(np.concatenate([other.partners_QD, other.others_CD])[fresh][order], width)
            cosines_QC = queries[place] @ vectors_CD.T
            cosines_QC[asking[none], found[none]] = -np.inf
            apart_QC = cosines_QC - own[place][:, None]
            nearer[place] += (apart_QC > TIE).sum(axis=1) + 0.5 * (np.abs(apart_QC) <= TIE).sum(axis=1)
    return [1 + count_Q for count_Q in nearer]

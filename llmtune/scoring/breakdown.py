"""Where a model goes wrong: per-class table, confusion matrix, worst rows; plain numbers, ready for JSON.

Legend: N rows, n rows of a block, C classes. Everything here is numpy.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmtune.scoring.classification import Blocks, confusion, label_counts, numbers, probabilities

MOST_PAIRS = 20


def breakdown(problem_type: str, blocks: Blocks, names: Sequence[str], threshold: float = 0.5) -> dict[str, Any]:
    """`classes` and, for single labels, `confusion` and `most_confused`; for a regression `residuals`."""
    if problem_type == "regression":
        return {"residuals": residuals(*numbers(blocks))}
    if problem_type == "multi_label":
        right_C, truth_C, given_C = label_counts(blocks, threshold)
        return {"classes": class_table(right_C, truth_C, given_C, names)}
    matrix_CC = confusion(blocks)
    return {
        "classes": class_table(np.diag(matrix_CC), matrix_CC.sum(axis=1), matrix_CC.sum(axis=0), names),
        "confusion": {"labels": list(names), "rows_are": "gold", "counts": matrix_CC.tolist()},
        "most_confused": most_confused(matrix_CC, names),
    }


def class_table(
    right_C: np.ndarray, truth_C: np.ndarray, given_C: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """For each class: precision, recall, F1 (0 where nothing was given or there is nothing to find), and its rows.

    Args:
        right_C, truth_C, given_C: rows that have the class and get it, that have it, that get it.
    """
    return [
        {
            "label": name,
            "precision": _share(right_C[c], given_C[c]),
            "recall": _share(right_C[c], truth_C[c]),
            "f1": _share(2 * right_C[c], truth_C[c] + given_C[c]),
            "rows": int(truth_C[c]),
            "predicted": int(given_C[c]),
        }
        for c, name in enumerate(names)
    ]


def most_confused(matrix_CC: np.ndarray, names: Sequence[str], most: int = MOST_PAIRS) -> list[dict[str, Any]]:
    """Pairs of gold and predicted class, the most frequent first."""
    wrong_CC = matrix_CC - np.diag(np.diag(matrix_CC))
    order = np.argsort(-wrong_CC, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(names)) for place in order]
    return [{"gold": names[g], "predicted": names[p], "rows": int(wrong_CC[g, p])} for g, p in pairs if wrong_CC[g, p]]


def residuals(predicted_N: np.ndarray, targets_N: np.ndarray) -> dict[str, float]:
    """How far predictions lie from the numbers: mean (predicted - gold), and percentiles of the distance."""
    gap_N = predicted_N.astype(np.float64) - targets_N
    p50, p90, most = np.percentile(np.abs(gap_N), [50, 90, 100])
    return {"mean": float(gap_N.mean()), "p50": float(p50), "p90": float(p90), "max": float(most)}


def worst_rows(problem_type: str, blocks: Blocks, most: int, threshold: float = 0.5) -> list[int]:
    """Numbers of the rows that are wrong, the surest mistakes (for a regression: the largest distances) first."""
    worst: list[tuple[float, int]] = []
    start = 0
    for logits_nC, targets in blocks():
        badness_n, wrong_n = _badness(problem_type, logits_nC, targets, threshold)
        found = [(float(badness_n[row]), -(start + int(row))) for row in np.flatnonzero(wrong_n)]
        worst = heapq.nlargest(most, worst + found)
        start += len(logits_nC)
    return [-row for _, row in worst]


def _badness(
    problem_type: str, logits_nC: np.ndarray, targets: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """How sure each prediction is, or how far off, and whether it is wrong."""
    if problem_type == "regression":
        badness_n = np.abs(logits_nC.reshape(-1) - targets)
        return badness_n, badness_n > 0
    chances_nC = probabilities(problem_type, logits_nC)
    if problem_type == "single_label":
        return chances_nC.max(axis=1), chances_nC.argmax(axis=1) != targets
    return np.abs(chances_nC - targets).sum(axis=1), ((chances_nC >= threshold) != (targets > 0.5)).any(axis=1)


def worst_errors(facts: Sequence[Mapping[str, Any]], decoded: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is known of each row (its label as `gold`), and what was predicted for it with which probability."""
    found = []
    for known, predicted in zip(facts, decoded):
        label, chances = predicted["label"], predicted.get("probabilities", {})
        error = {**known, "predicted": label}
        if isinstance(label, str):
            error["probability"] = chances[label]
        elif isinstance(label, list):
            error["probabilities"] = {name: chances[name] for name in dict.fromkeys([*label, *known["gold"]])}
        found.append(error)
    return found


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0

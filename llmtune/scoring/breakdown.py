"""Where a model goes wrong: per-class table, confusion matrix, worst rows; plain numbers, ready for JSON.

Legend: N rows, C classes. Everything here is numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmtune.scoring.classification import probabilities

MOST_PAIRS = 20


def breakdown(
    problem_type: str, logits_NC: np.ndarray, targets: np.ndarray, names: Sequence[str], threshold: float = 0.5
) -> dict[str, Any]:
    """`classes` and, for single labels, `confusion` and `most_confused`; for a regression `residuals`.

    Args:
        targets: (N,) class ids, (N, C) zeros and ones, or (N,) numbers.
    """
    if problem_type == "regression":
        return {"residuals": residuals(logits_NC.reshape(-1), targets)}
    if problem_type == "multi_label":
        given_NC = probabilities("multi_label", logits_NC) >= threshold
        return {"classes": class_table(targets > 0.5, given_NC, names)}
    predicted_N = logits_NC.argmax(axis=1)
    classes_C = np.arange(len(names))
    matrix_CC = confusion_matrix(targets, predicted_N, len(names))
    return {
        "classes": class_table(targets[:, None] == classes_C, predicted_N[:, None] == classes_C, names),
        "confusion": {"labels": list(names), "rows_are": "gold", "counts": matrix_CC.tolist()},
        "most_confused": most_confused(matrix_CC, names),
    }


def confusion_matrix(targets_N: np.ndarray, predicted_N: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) counts: a row for each gold class, a column for each predicted one."""
    pairs_N = targets_N.astype(np.int64) * num_classes + predicted_N
    return np.bincount(pairs_N, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_table(truth_NC: np.ndarray, given_NC: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """For each class: precision, recall, F1 (0 where nothing was given or there is nothing to find), and its rows."""
    right_C, truth_C, given_C = (truth_NC & given_NC).sum(axis=0), truth_NC.sum(axis=0), given_NC.sum(axis=0)
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


def worst_rows(
    problem_type: str, logits_NC: np.ndarray, targets: np.ndarray, most: int, threshold: float = 0.5
) -> list[int]:
    """Numbers of the rows that are wrong, the surest mistakes (for a regression: the largest distances) first."""
    if problem_type == "regression":
        badness_N = np.abs(logits_NC.reshape(-1) - targets)
        wrong_N = badness_N > 0
    else:
        chances_NC = probabilities(problem_type, logits_NC)
        if problem_type == "single_label":
            badness_N, wrong_N = chances_NC.max(axis=1), chances_NC.argmax(axis=1) != targets
        else:
            badness_N = np.abs(chances_NC - targets).sum(axis=1)
            wrong_N = ((chances_NC >= threshold) != (targets > 0.5)).any(axis=1)
    order = np.argsort(-badness_N, kind="stable")
    return [int(row) for row in order if wrong_N[row]][:most]


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

"""Scores of classification and regression, offline, from scikit-learn and scipy, of rows that come in blocks.

Only counts, and one probability a row and class at a time, are held: the rows may be any number.

Legend: N rows, n rows of a block, C classes. Everything here is numpy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics

Scores = dict[str, float]
Blocks = Callable[[], "Iterable[tuple[np.ndarray, np.ndarray]]"]
"""logits_nC and targets (class ids (n,), zeros and ones (n, C), or numbers (n,)) of all rows, block by block; may be
asked for again"""

METRICS: dict[str, dict[str, str]] = {
    "single_label": {
        "accuracy": "max", "f1_macro": "max", "f1_micro": "max", "precision_macro": "max", "recall_macro": "max",
        "mcc": "max", "roc_auc": "max", "pr_auc": "max", "loss": "min",
    },
    "multi_label": {
        "f1_micro": "max", "f1_macro": "max", "f1_samples": "max", "accuracy": "max", "precision_micro": "max",
        "recall_micro": "max", "roc_auc": "max", "pr_auc": "max", "loss": "min",
    },
    "regression": {"spearman": "max", "pearson": "max", "r2": "max", "mae": "min", "mse": "min", "loss": "min"},
}  # fmt: skip
"""problem type -> metric -> the direction in which it is better"""

DEFAULT_METRIC = {"single_label": "accuracy", "multi_label": "f1_micro", "regression": "spearman"}
CURVE_NUMBERS = 4_000_000
"""probabilities held at a time for the areas under curves; classes beyond take another pass over the blocks"""


def probabilities(problem_type: str, logits_NC: np.ndarray) -> np.ndarray:
    """Softmax over classes, or a sigmoid for each label; (N, C)."""
    if problem_type == "single_label":
        shifted = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-logits_NC.astype(np.float64)))


def score(problem_type: str, blocks: Blocks, threshold: float = 0.5) -> Scores:
    """All metrics of the problem type but `loss`, which the evaluation sums itself.

    A metric that the rows don't define (AUC of a class that none of them has) is left out.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sklearn and scipy warn of exactly those undefined cases
        found = SCORERS[problem_type](blocks, threshold)
    return {name: float(value) for name, value in found.items() if value is not None and np.isfinite(value)}


def confusion_matrix(targets_n: np.ndarray, predicted_n: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) counts: a row for each gold class, a column for each predicted one."""
    pairs_n = targets_n.astype(np.int64) * num_classes + predicted_n
    return np.bincount(pairs_n, minlength=num_classes**2).reshape(num_classes, num_classes)


def confusion(blocks: Blocks) -> np.ndarray:
    """The confusion matrix (C, C) of all rows with one label each."""
    return sum_of(
        confusion_matrix(targets_n, logits_nC.argmax(axis=1), logits_nC.shape[1]) for logits_nC, targets_n in blocks()
    )


def label_counts(blocks: Blocks, threshold: float) -> np.ndarray:
    """(3, C): by label rows that have it and get it, that have it, that get it; of rows with several labels."""

    def counted() -> Iterator[np.ndarray]:
        for logits_nC, targets_nC in blocks():
            truth_nC, given_nC = targets_nC > 0.5, probabilities("multi_label", logits_nC) >= threshold
            yield np.stack([(truth_nC & given_nC).sum(axis=0), truth_nC.sum(axis=0), given_nC.sum(axis=0)])

    return sum_of(counted())


def numbers(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and gold numbers of all rows: (N,), (N,)."""
    pairs = [(logits_nC.reshape(-1), targets_n) for logits_nC, targets_n in blocks()]
    return np.concatenate([predicted for predicted, _ in pairs]), np.concatenate([gold for _, gold in pairs])


def sum_of(arrays: Iterable[np.ndarray]) -> np.ndarray:
    total: Any = None
    for array in arrays:
        total = array if total is None else total + array
    return total


def _single_label(blocks: Blocks, threshold: float) -> dict[str, Any]:
    matrix_CC = confusion(blocks)
    gold, given = np.nonzero(matrix_CC)
    weights = matrix_CC[gold, given]
    macro = metrics.precision_recall_fscore_support(
        gold, given, average="macro", zero_division=0, sample_weight=weights
    )
    found = {
        "accuracy": np.trace(matrix_CC) / matrix_CC.sum(),
        "precision_macro": macro[0],
        "recall_macro": macro[1],
        "f1_macro": macro[2],
        "f1_micro": metrics.f1_score(gold, given, average="micro", sample_weight=weights),
        "mcc": metrics.matthews_corrcoef(gold, given, sample_weight=weights),
    }
    num_classes = len(matrix_CC)
    classes = np.arange(1, 2) if num_classes == 2 else np.arange(num_classes)

    def columns(chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for logits_nC, targets_n in blocks():
            yield targets_n[:, None] == chosen, probabilities("single_label", logits_nC)[:, chosen]

    return found | _curves(columns, classes, matrix_CC.sum(axis=1), int(matrix_CC.sum()))


def _multi_label(blocks: Blocks, threshold: float) -> dict[str, Any]:
    right_C, truth_C, given_C = label_counts(blocks, threshold)
    exact = samples = rows = 0.0
    for logits_nC, targets_nC in blocks():
        truth_nC, given_nC = targets_nC.astype(int), (probabilities("multi_label", logits_nC) >= threshold).astype(int)
        rows += len(truth_nC)
        exact += (given_nC == truth_nC).all(axis=1).sum()
        samples += metrics.f1_score(truth_nC, given_nC, average="samples", zero_division=0) * len(truth_nC)
    found = {
        "accuracy": exact / rows,
        "precision_micro": _share(right_C.sum(), given_C.sum()),
        "recall_micro": _share(right_C.sum(), truth_C.sum()),
        "f1_micro": _share(2 * right_C.sum(), truth_C.sum() + given_C.sum()),
        "f1_macro": np.mean([_share(2 * r, t + g) for r, t, g in zip(right_C, truth_C, given_C)]),
        "f1_samples": samples / rows,
    }

    def columns(chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for logits_nC, targets_nC in blocks():
            yield targets_nC[:, chosen] > 0.5, probabilities("multi_label", logits_nC)[:, chosen]

    return found | _curves(columns, np.arange(len(truth_C)), truth_C, int(rows))


def _regression(blocks: Blocks, threshold: float) -> dict[str, Any]:
    predicted_N, targets_N = numbers(blocks)
    varied = len(targets_N) > 1 and np.ptp(targets_N) > 0 and np.ptp(predicted_N) > 0
    return {
        "pearson": stats.pearsonr(targets_N, predicted_N)[0] if varied else None,
        "spearman": stats.spearmanr(targets_N, predicted_N)[0] if varied else None,
        "r2": metrics.r2_score(targets_N, predicted_N) if varied else None,
        "mae": metrics.mean_absolute_error(targets_N, predicted_N),
        "mse": metrics.mean_squared_error(targets_N, predicted_N),
    }


def _curves(
    columns: Callable[[np.ndarray], Iterable[tuple[np.ndarray, np.ndarray]]], classes: np.ndarray,
    rows_C: np.ndarray, num_rows: int,
) -> dict[str, Any]:  # fmt: skip
    """Macro means of ROC-AUC and of average precision over those of `classes` that have both kinds of rows.

    columns: truth and probabilities of some classes, (n, classes) each, block by block.
    """
    both = [c for c in classes if 0 < rows_C[c] < num_rows]
    if not both:
        return {}
    areas, at_once = [], max(1, CURVE_NUMBERS // num_rows)
    for start in range(0, len(both), at_once):
        parts = list(columns(np.asarray(both[start : start + at_once])))
        truth_NK, chances_NK = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        areas += [
            (metrics.roc_auc_score(truth_N, chances_N), metrics.average_precision_score(truth_N, chances_N))
            for truth_N, chances_N in zip(truth_NK.T, chances_NK.T)
        ]
    roc, precision = np.mean(areas, axis=0)
    return {"roc_auc": roc, "pr_auc": precision}


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0


SCORERS: dict[str, Callable[[Blocks, float], dict[str, Any]]] = {
    "single_label": _single_label,
    "multi_label": _multi_label,
    "regression": _regression,
}

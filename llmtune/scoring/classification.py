"""Scores of classification and regression, offline, from scikit-learn and scipy.

Legend: N rows, C classes. Everything here is numpy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics

Scores = dict[str, float]

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


def probabilities(problem_type: str, logits_NC: np.ndarray) -> np.ndarray:
    """Softmax over classes, or a sigmoid for each label; (N, C)."""
    if problem_type == "single_label":
        shifted = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-logits_NC.astype(np.float64)))


def score(problem_type: str, logits_NC: np.ndarray, targets: np.ndarray, threshold: float = 0.5) -> Scores:
    """All metrics of the problem type but `loss`, which the evaluation sums itself.

    Args:
        targets: (N,) class ids, (N, C) zeros and ones, or (N,) numbers.
    A metric that the rows don't define (AUC of a class that none of them has) is left out.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sklearn and scipy warn of exactly those undefined cases
        found = SCORERS[problem_type](logits_NC, targets, threshold)
    return {name: float(value) for name, value in found.items() if value is not None and np.isfinite(value)}


def _single_label(logits_NC: np.ndarray, targets_N: np.ndarray, threshold: float) -> dict[str, Any]:
    predicted_N = logits_NC.argmax(axis=1)
    macro = metrics.precision_recall_fscore_support(targets_N, predicted_N, average="macro", zero_division=0)
    found = {
        "accuracy": (predicted_N == targets_N).mean(),
        "precision_macro": macro[0],
        "recall_macro": macro[1],
        "f1_macro": macro[2],
        "f1_micro": metrics.f1_score(targets_N, predicted_N, average="micro"),
        "mcc": metrics.matthews_corrcoef(targets_N, predicted_N),
    }
    chances_NC = probabilities("single_label", logits_NC)
    truth_NC = np.eye(logits_NC.shape[1], dtype=int)[targets_N]
    if logits_NC.shape[1] == 2:
        chances_NC, truth_NC = chances_NC[:, 1:], truth_NC[:, 1:]
    return found | _curves(truth_NC, chances_NC)


def _multi_label(logits_NC: np.ndarray, targets_NC: np.ndarray, threshold: float) -> dict[str, Any]:
    chances_NC = probabilities("multi_label", logits_NC)
    predicted_NC = (chances_NC >= threshold).astype(int)
    truth_NC = targets_NC.astype(int)
    micro = metrics.precision_recall_fscore_support(truth_NC, predicted_NC, average="micro", zero_division=0)
    found = {
        "accuracy": (predicted_NC == truth_NC).all(axis=1).mean(),
        "precision_micro": micro[0],
        "recall_micro": micro[1],
        "f1_micro": micro[2],
        "f1_macro": metrics.f1_score(truth_NC, predicted_NC, average="macro", zero_division=0),
        "f1_samples": metrics.f1_score(truth_NC, predicted_NC, average="samples", zero_division=0),
    }
    return found | _curves(truth_NC, chances_NC)


def _regression(logits_NC: np.ndarray, targets_N: np.ndarray, threshold: float) -> dict[str, Any]:
    predicted_N = logits_NC.reshape(-1)
    varied = len(targets_N) > 1 and np.ptp(targets_N) > 0 and np.ptp(predicted_N) > 0
    return {
        "pearson": stats.pearsonr(targets_N, predicted_N)[0] if varied else None,
        "spearman": stats.spearmanr(targets_N, predicted_N)[0] if varied else None,
        "r2": metrics.r2_score(targets_N, predicted_N) if varied else None,
        "mae": metrics.mean_absolute_error(targets_N, predicted_N),
        "mse": metrics.mean_squared_error(targets_N, predicted_N),
    }


def _curves(truth_NC: np.ndarray, chances_NC: np.ndarray) -> dict[str, Any]:
    """Macro means of ROC-AUC and of average precision over the classes that have both kinds of rows."""
    both = [c for c in range(truth_NC.shape[1]) if 0 < truth_NC[:, c].sum() < len(truth_NC)]
    if not both:
        return {}
    return {
        "roc_auc": np.mean([metrics.roc_auc_score(truth_NC[:, c], chances_NC[:, c]) for c in both]),
        "pr_auc": np.mean([metrics.average_precision_score(truth_NC[:, c], chances_NC[:, c]) for c in both]),
    }


SCORERS: dict[str, Callable[[np.ndarray, np.ndarray, float], dict[str, Any]]] = {
    "single_label": _single_label,
    "multi_label": _multi_label,
    "regression": _regression,
}

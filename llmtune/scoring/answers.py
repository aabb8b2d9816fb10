"""Scores of extractive question answering: exact match and F1, and for unanswerable questions the best threshold.

Legend: N questions. Everything here is numpy.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import numpy as np

from llmtune.scoring.answer_text import best_of

METRICS = {
    "f1": "max", "em": "max", "best_f1": "max", "best_em": "max", "has_answer_f1": "max", "has_answer_em": "max",
    "no_answer_accuracy": "max", "span_f1": "max", "span_em": "max", "loss": "min",
}  # fmt: skip
"""metric -> the direction in which it is better; all but f1, em and loss need unanswerable questions"""
DEFAULT_METRIC = "f1"


@dataclass
class AnswerScores:
    """Adds up questions one by one; 25 bytes are kept of each."""

    exact: array[float] = field(default_factory=lambda: array("d"))
    f1: array[float] = field(default_factory=lambda: array("d"))
    """of the best span, whatever the model thinks of "no answer" """
    difference: array[float] = field(default_factory=lambda: array("d"))
    """score of "no answer" minus that of the best span"""
    answerable: array[int] = field(default_factory=lambda: array("b"))

    def add(self, span_text: str, golds: list[str], difference: float) -> tuple[float, float]:
        """Count a question: the best span's text, the gold answers (none: unanswerable); its exact match and F1."""
        exact, f1 = best_of(span_text, golds) if golds else (0.0, 0.0)
        self.exact.append(exact)
        self.f1.append(f1)
        self.difference.append(difference)
        self.answerable.append(int(bool(golds)))
        return exact, f1

    def scores(self, threshold: float) -> dict[str, float]:
        """All metrics but `loss`, from 0 to 1. `span_f1` and `span_em` are of the answerable questions, their best
        spans taken whatever the model thinks of "no answer".

        threshold: "no answer" is given where `difference` is above it; infinity: never.
        """
        exact_N, f1_N = np.array(self.exact), np.array(self.f1)
        difference_N, answerable_N = np.array(self.difference), np.array(self.answerable, dtype=bool)
        given_N = difference_N <= threshold
        exact_at_N, f1_at_N = (np.where(answerable_N, right_N * given_N, ~given_N) for right_N in (exact_N, f1_N))
        found = {"f1": f1_at_N.mean(), "em": exact_at_N.mean()}
        if not answerable_N.all():
            best_f1, best_f1_threshold = best_threshold(f1_N, difference_N, answerable_N)
            best_em, best_em_threshold = best_threshold(exact_N, difference_N, answerable_N)
            found |= {
                "always_unanswerable": (~answerable_N).mean(), "best_f1": best_f1,
                "best_f1_threshold": best_f1_threshold, "best_em": best_em, "best_em_threshold": best_em_threshold,
                "no_answer_accuracy": f1_at_N[~answerable_N].mean(),
            }  # fmt: skip
            if answerable_N.any():
                found["has_answer_f1"] = f1_at_N[answerable_N].mean()
                found["has_answer_em"] = exact_at_N[answerable_N].mean()
        if np.isfinite(threshold):
            found["threshold"] = threshold
        if answerable_N.any() and (np.isfinite(threshold) or not answerable_N.all()):
            found["span_f1"], found["span_em"] = f1_N[answerable_N].mean(), exact_N[answerable_N].mean()
        return {name: float(value) for name, value in found.items()}


def best_threshold(right_N: np.ndarray, difference_N: np.ndarray, answerable_N: np.ndarray) -> tuple[float, float]:
    """The highest mean score that any threshold gives, and that threshold (Rajpurkar et al., arXiv 1806.03822).

    Starts from "no answer" for every question, then lets the question with the lowest difference answer, and so on:
    each answerable one adds its score, each unanswerable one takes 1 away. Equal differences can't be told apart.
    The threshold lies half-way to the next difference, so that rounding elsewhere changes nothing.
    """
    order = np.argsort(difference_N, kind="stable")
    sorted_N = difference_N[order]
    gains_N = np.where(answerable_N, right_N, -1.0)[order]
    totals = np.concatenate([[0.0], np.cumsum(gains_N)])
    can_end = np.concatenate([[True], np.diff(sorted_N) > 0, [True]])
    best = int(np.where(can_end, totals, -np.inf).argmax())
    if best == 0:
        threshold = sorted_N[0] - 1.0
    elif best == len(sorted_N):
        threshold = sorted_N[-1] + 1.0
    else:
        threshold = (sorted_N[best - 1] + sorted_N[best]) / 2
    return float((totals[best] + (~answerable_N).sum()) / len(right_N)), float(threshold)

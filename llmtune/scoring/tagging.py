"""Scores of entities and of tags, counted row by row so that no row needs to be kept.

An entity is right when its words and its type are. Micro and macro as in seqeval and conlleval (tested against them).

Legend: C tags.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmtune.scoring.breakdown import most_confused

Entity = tuple[int, int, str]
METRICS: dict[str, dict[str, str]] = {
    "entities": {
        "f1": "max", "precision": "max", "recall": "max", "f1_macro": "max", "precision_macro": "max",
        "recall_macro": "max", "rows_right": "max", "loss": "min",
    },
    "tags": {"accuracy": "max", "f1_macro": "max", "rows_right": "max", "loss": "min"},
}  # fmt: skip
"""kind of tags -> metric -> the direction in which it is better"""
DEFAULT_METRIC = {"entities": "f1", "tags": "accuracy"}
MISSED, INVENTED, OTHER_ENDS = "(missed)", "(no entity)", "(other words)"
"""what stands for a type where an entity has no counterpart, or one that shares only some of its words"""
MOST_PAIRS = 20


@dataclass
class EntityCounts:
    """Entities of gold and prediction, added up by type."""

    gold: Counter[str] = field(default_factory=Counter)
    predicted: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    confused: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(gold type, predicted type) of mistakes"""
    rows: int = 0
    rows_right: int = 0

    def add(self, gold: Iterable[Entity], predicted: Iterable[Entity]) -> int:
        """Count a row; how many entities are missed or too many."""
        gold, predicted = set(gold), set(predicted)
        self.gold.update(kind for *_, kind in gold)
        self.predicted.update(kind for *_, kind in predicted)
        self.right.update(kind for *_, kind in gold & predicted)
        missed, invented = gold - predicted, predicted - gold
        self.confused.update(_pairs(missed, invented))
        self.rows += 1
        self.rows_right += not missed and not invented
        return len(missed) + len(invented)

    def scores(self) -> dict[str, float]:
        """Micro P, R, F1; the means of them over types; the share of rows without a mistake."""
        table = self.table()
        micro = _prf(sum(self.right.values()), sum(self.predicted.values()), sum(self.gold.values()))
        macro = {f"{key}_macro": float(np.mean([row[key] for row in table])) if table else 0.0 for key in micro}
        return {**micro, **macro, "rows_right": self.rows_right / self.rows if self.rows else 0.0}

    def table(self) -> list[dict[str, Any]]:
        """For each type in gold or prediction: precision, recall, F1, and how many there are of it."""
        return [
            {
                "label": kind, **_prf(self.right[kind], self.predicted[kind], self.gold[kind]),
                "rows": self.gold[kind], "predicted": self.predicted[kind],
            }
            for kind in sorted(self.gold.keys() | self.predicted.keys())
        ]  # fmt: skip

    def most_confused(self) -> list[dict[str, Any]]:
        """Types of mistakes, the most frequent first."""
        ordered = sorted(self.confused.items(), key=lambda item: (-item[1], item[0]))
        return [{"gold": gold, "predicted": given, "rows": times} for (gold, given), times in ordered[:MOST_PAIRS]]


def _pairs(missed: set[Entity], invented: set[Entity]) -> list[tuple[str, str]]:
    """Which mistakes belong together: of the same words, else of words they share; what is left is by itself."""
    pairs = []
    by_words = {entity[:2]: entity for entity in invented}
    free, left = set(invented), []
    for entity in sorted(missed):
        same = by_words.get(entity[:2])
        if same in free:
            free.discard(same)
            pairs.append((entity[2], same[2]))
        else:
            left.append(entity)
    for entity in left:
        near = next((one for one in sorted(free) if one[0] < entity[1] and entity[0] < one[1]), None)
        if near is None:
            pairs.append((entity[2], MISSED))
        else:
            free.discard(near)
            pairs.append((entity[2], near[2] if near[2] != entity[2] else OTHER_ENDS))
    return pairs + [(INVENTED, entity[2]) for entity in free]


def _prf(right: int, predicted: int, gold: int) -> dict[str, float]:
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / gold if gold else 0.0,
        "f1": 2 * right / (predicted + gold) if predicted + gold else 0.0,
    }


class TagCounts:
    """Tags of words, gold against predicted, as a confusion matrix."""

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self.matrix_CC = np.zeros((len(names), len(names)), dtype=np.int64)
        self.rows = self.rows_right = 0

    def add(self, gold: Sequence[int], predicted: Sequence[int]) -> int:
        """Count a row of tag ids; how many are wrong."""
        np.add.at(self.matrix_CC, (np.asarray(gold, dtype=int), np.asarray(predicted, dtype=int)), 1)
        wrong = int(np.sum(np.asarray(gold) != np.asarray(predicted)))
        self.rows += 1
        self.rows_right += not wrong
        return wrong

    def scores(self) -> dict[str, float]:
        """Accuracy over words, mean F1 of the tags that occur, share of rows without a mistake."""
        total = int(self.matrix_CC.sum())
        table = [row for row in self.table() if row["rows"] or row["predicted"]]
        return {
            "accuracy": float(np.trace(self.matrix_CC) / total) if total else 0.0,
            "f1_macro": float(np.mean([row["f1"] for row in table])) if table else 0.0,
            "rows_right": self.rows_right / self.rows if self.rows else 0.0,
        }

    def table(self) -> list[dict[str, Any]]:
        """For each tag: precision, recall, F1, and how many words have it."""
        right_C, gold_C = np.diag(self.matrix_CC), self.matrix_CC.sum(1)
        return [
            {
                "label": name, **_prf(int(right_C[c]), int(predicted), int(gold_C[c])),
                "rows": int(gold_C[c]), "predicted": int(predicted),
            }
            for c, (name, predicted) in enumerate(zip(self.names, self.matrix_CC.sum(0)))
        ]  # fmt: skip

    def most_confused(self) -> list[dict[str, Any]]:
        return most_confused(self.matrix_CC, self.names, MOST_PAIRS)

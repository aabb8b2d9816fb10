"""Scores of relations, with and without the class for rows that have none of them.

Legend: N rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

DIRECTED = re.compile(r"(.+)\((e1,\s*e2|e2,\s*e1)\)")
METRICS = {
    "f1_macro_official": "max", "f1_micro_relations": "max", "f1_macro_relations": "max", "accuracy": "max",
    "f1_micro": "max", "f1_macro": "max", "mcc": "max", "loss": "min",
}  # fmt: skip
"""metric -> the direction in which it is better"""


def relation_of(name: str) -> str:
    """A class without its direction: `Cause-Effect` of `Cause-Effect(e2,e1)`."""
    match = DIRECTED.fullmatch(name)
    return match[1] if match else name


def score(
    predicted_N: np.ndarray, gold_N: np.ndarray, names: Sequence[str], other: str | None
) -> dict[str, float]:  # fmt: skip
    """All metrics but `loss`, `mcc` and those of a plain classification, from class ids.

    - `f1_macro_official`: see `f1_macro_official`.
    - `f1_micro_relations`: pooled over all classes but `other`: a row of `other` that is taken for a relation is a
      false one, a relation taken for `other` is missed (the score of TACRED, Zhang et al. 2017).
    - `f1_macro_relations`: the mean over those classes that have rows, or that rows are taken for.
    """
    counts = _counts(predicted_N, gold_N, len(names))
    kept = [number for number, name in enumerate(names) if name != other]
    hit, said, there = (part[kept] for part in counts)
    seen = said + there > 0
    return {
        "f1_macro_official": f1_macro_official(predicted_N, gold_N, names, other),
        "f1_micro_relations": _f1(hit.sum(), said.sum(), there.sum()),
        "f1_macro_relations": float(np.mean([_f1(*one) for one in zip(hit[seen], said[seen], there[seen])] or [0.0])),
    }


def f1_macro_official(
    predicted_N: np.ndarray, gold_N: np.ndarray, names: Sequence[str], other: str | None = "Other"
) -> float:
    """The macro-averaged F1 by which SemEval-2010 task 8 ranks: (9+1)-way, with directionality, without `Other`.

    Both directions of a relation, `R(e1,e2)` and `R(e2,e1)`, are one class. A row is right if relation and direction
    are. Precision of R is the right ones over all rows taken for R in either direction, recall the right ones over
    all rows of R in either direction; so a wrong direction costs both. F1 is averaged over the relations, each counting
    the same, those without rows as 0; `Other` is none of them, but its rows count where they are taken for one.
    Without directions this is the macro-F1 over the classes but `other`.
    """
    relations = [relation_of(name) for name in names]
    hit, said, there = _counts(predicted_N, gold_N, len(names))
    scores = []
    for relation in dict.fromkeys(relations):
        both = [number for number, one in enumerate(relations) if one == relation]
        if relation != other:
            scores.append(_f1(hit[both].sum(), said[both].sum(), there[both].sum()))
    return float(np.mean(scores)) if scores else 0.0


def _counts(predicted_N: np.ndarray, gold_N: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By class: rows that are right, rows taken for it, rows of it."""
    right_N = predicted_N == gold_N
    numbers = (gold_N[right_N], predicted_N, gold_N)
    hit, said, there = (np.bincount(ids, minlength=num_classes) for ids in numbers)
    return hit, said, there


def _f1(hit: float, said: float, there: float) -> float:
    return float(2 * hit / (said + there)) if said + there else 0.0

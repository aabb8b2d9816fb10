"""What a ranking model's outputs say: scores by group, what `predict` tells, the rows that are ranked worst.

Legend: R candidates of all rows, C candidates of one row.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmtune.scoring import ranking
from llmtune.task.embedding_rows import text_number
from llmtune.task.ranking_rows import DRAWN, groups_of

if TYPE_CHECKING:
    from llmtune.scoring.predictions import Chunk, Predictions


def scores(predictions: Predictions) -> dict[str, float]:
    """Metrics by group: rows with several candidates are one each, others belong together by their group or text."""
    parts: list[tuple[np.ndarray, ...]] = []
    for chunk in predictions.chunks():
        names, targets = groups_of(chunk.columns), chunk.targets or ()
        sizes = [len(target) for target in targets]
        own = [
            text_number(names[number]) if size == 1 else -1 - chunk.start - number for number, size in enumerate(sizes)
        ]
        relevance_R = np.array([grade for target in targets for grade in target], dtype=np.int16)
        given_R = np.concatenate([output.reshape(-1) for output in chunk.outputs])
        parts.append((np.repeat(np.array(own, dtype=np.int64), sizes), relevance_R, given_R))
    groups_R, relevance_R, given_R = (np.concatenate(some) for some in zip(*parts))
    return ranking.score(groups_R, relevance_R, given_R)


def decoded(chunk: Chunk, *, together: bool) -> list[dict[str, Any]]:
    """For each row `score` and `probability` of its candidate; of listed ones lists of them, and `ranking`: their
    numbers, the best first.

    Args:
        together: are probabilities those of a choice among a row's candidates? Else each is by itself.
    """
    listed = chunk.columns.get("choices")
    found: list[dict[str, Any]] = []
    for number, output in enumerate(chunk.outputs):
        scores_C = output.reshape(-1).astype(np.float64)
        if listed is None or not listed[number]:
            one = float(scores_C[0])
            chance = None if together else _rounded(1 / (1 + np.exp(-scores_C[:1])))[0]
            found.append({"score": round(one, 6), "probability": chance, "ranking": None})
            continue
        chances_C = np.exp(scores_C - scores_C.max())
        chances_C = chances_C / chances_C.sum() if together else 1 / (1 + np.exp(-scores_C))
        order = np.argsort(-scores_C, kind="stable").tolist()
        found.append({"score": _rounded(scores_C), "probability": _rounded(chances_C), "ranking": order})
    return found


def worst(predictions: Predictions, candidates: Sequence[str], most: int) -> list[dict[str, Any]]:
    """Rows whose best candidate lies farthest below another one; of single candidates those judged most wrongly."""
    kept: list[tuple[float, int]] = []
    for chunk in predictions.chunks():
        gaps = [
            (_gap(np.array(target), output.reshape(-1)), -(chunk.start + number))
            for number, (target, output) in enumerate(zip(chunk.targets or (), chunk.outputs))
        ]
        kept = heapq.nlargest(most, [*kept, *(gap for gap in gaps if gap[0] > 0)])
    rows = predictions.some([-number for _, number in kept])
    return [_told(rows, row, target, candidates) for row, target in enumerate(rows.targets or ())]


def _gap(relevance_C: np.ndarray, scores_C: np.ndarray) -> float:
    if len(relevance_C) == 1:
        return float(-scores_C[0] if relevance_C[0] else scores_C[0])
    relevant_C = relevance_C > 0
    if relevant_C.all() or not relevant_C.any():
        return 0.0
    return float(scores_C[~relevant_C].max() - scores_C[relevant_C].max())


def _told(rows: Chunk, row: int, target: Sequence[int], candidates: Sequence[str]) -> dict[str, Any]:
    columns, scores_C = rows.columns, rows.outputs[row].reshape(-1)
    fact = {"file": columns["file"][row], "line": columns["line"][row]}
    if len(target) == 1:
        pair = {"text": columns["text"][row], "text_pair": columns["text_pair"][row]}
        return {**fact, "gold": target[0], "predicted": round(float(scores_C[0]), 4), **pair}
    listed = (columns.get("choices") or [None] * (row + 1))[row]
    if listed:
        texts = json.loads(listed)
    else:
        texts = [columns["text_pair"][row], *(candidates[place] for place in json.loads(columns[DRAWN][row]))]
    gold = texts[int(np.argmax(target))]
    return {**fact, "gold": gold, "predicted": texts[int(scores_C.argmax())], "text": columns["text"][row]}


def _rounded(values_C: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values_C]

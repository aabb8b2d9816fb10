"""What vectors of texts say: scores of a split, what `predict` tells, the pairs that are farthest off.

Legend: Q rows of a chunk, N rows, D width.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmtune.scoring.retrieval import Block, correlation, retrieval, shortened, uniformity
from llmtune.task.embedding_rows import MILLION, NO_SCORE

if TYPE_CHECKING:
    from llmtune.scoring.predictions import Chunk, Predictions

DIGITS = 6


def scores(predictions: Predictions, matryoshka: Sequence[int]) -> dict[str, float]:
    """`spearman` and `pearson` of rows with scores; `mrr_10`, `recall_k`, `alignment` of pairs; `uniformity` of all.

    Those of the first numbers of a vector alone have `_dim<width>` behind their name.
    """
    widths: list[int | None] = [None, *matryoshka]
    spread, near = _spread(predictions), _near(predictions, widths)
    if near is None:
        return spread
    cosines_WN, scores_N = near
    if scores_N[0] != NO_SCORE:
        by_width = [correlation(cosines_N, scores_N) for cosines_N in cosines_WN]
    else:
        by_width = retrieval(_blocks(predictions), widths)
        spread["alignment"] = float((2 - 2 * cosines_WN[0]).mean())
    named = {
        name if width is None else f"{name}_dim{width}": value
        for width, found in zip(widths, by_width) for name, value in found.items()
    }  # fmt: skip
    return {**named, **spread}


def _spread(predictions: Predictions) -> dict[str, float]:
    total, num = 0.0, 0
    for chunk in predictions.chunks():
        some, pairs = uniformity(shortened(np.stack([_vectors(output)[0] for output in chunk.outputs]), None))
        total, num = total + some, num + pairs
    return {"uniformity": float(np.log(max(total / num, 1e-300)))} if num else {}


def _near(predictions: Predictions, widths: Sequence[int | None]) -> tuple[np.ndarray, np.ndarray] | None:
    """The cosines of all pairs by width (W, N), and their scores in millionths; None where rows are texts alone."""
    cosines: list[list[np.ndarray]] = [[] for _ in widths]
    given = []
    for chunk in predictions.chunks():
        if len(_vectors(chunk.outputs[0])) < 2:
            return None
        first, second = (np.stack([_vectors(output)[place] for output in chunk.outputs]) for place in (0, 1))
        for found, width in zip(cosines, widths):
            found.append((shortened(first, width) * shortened(second, width)).sum(axis=1))
        given.append([target[0] for target in chunk.targets or ()])
    return np.stack([np.concatenate(found) for found in cosines]), np.concatenate(given)


def _blocks(predictions: Predictions) -> Callable[[], Iterator[Block]]:
    def blocks() -> Iterator[Block]:
        for chunk in predictions.chunks():
            vectors = [_vectors(output) for output in chunk.outputs]
            numbers = [target[1:] for target in chunk.targets or ()]
            width = vectors[0].shape[1]
            yield Block(
                np.stack([some[0] for some in vectors]), np.stack([some[1] for some in vectors]),
                np.array([some[0] for some in numbers]), np.array([some[1] for some in numbers]),
                np.concatenate([some[2:].reshape(-1, width) for some in vectors]),
                np.array([number for some in numbers for number in some[2:]], dtype=np.int64),
            )  # fmt: skip

    return blocks


def decoded(chunk: Chunk) -> list[dict[str, Any]]:
    """For each row `embedding`; of a pair also `embedding_pair` and their `cosine`, else None."""
    found = []
    for output in chunk.outputs:
        vectors = _vectors(output)
        pair = len(vectors) > 1
        found.append({
            "embedding": _plain(vectors[0]),
            "cosine": round(float(vectors[0] @ vectors[1]), DIGITS) if pair else None,
            "embedding_pair": _plain(vectors[1]) if pair else None,
        })  # fmt: skip
    return found


def worst(predictions: Predictions, most: int) -> list[dict[str, Any]]:
    """The pairs whose cosine is farthest from their score (from 0 to 1), or from 1 where they have none."""
    kept: list[tuple[float, int]] = []
    for chunk in predictions.chunks():
        if len(_vectors(chunk.outputs[0])) < 2:
            return []
        apart = [
            (abs(_wanted(target) - float(vectors[0] @ vectors[1])), -(chunk.start + number))
            for number, (vectors, target) in enumerate(zip(map(_vectors, chunk.outputs), chunk.targets or ()))
        ]
        kept = heapq.nlargest(most, kept + apart)
    rows = predictions.some([-number for _, number in kept])
    return [
        {
            "file": rows.columns["file"][row], "line": rows.columns["line"][row], "gold": round(_wanted(target), 3),
            "predicted": round(float(np.dot(*_vectors(rows.outputs[row])[:2])), 3), "text": rows.columns["text"][row],
            "text_pair": rows.columns["text_pair"][row],
        }
        for row, target in enumerate(rows.targets or ())
    ]  # fmt: skip


def _wanted(target: Sequence[int]) -> float:
    return 1.0 if target[0] == NO_SCORE else target[0] / MILLION


def _vectors(output: np.ndarray) -> np.ndarray:
    """Of a row's texts: (texts, D)."""
    return output if output.ndim == 2 else output[None]


def _plain(vector_D: np.ndarray) -> list[float]:
    return [round(float(value), DIGITS) for value in vector_D]

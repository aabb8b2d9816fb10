"""The losses of sentence embeddings on what a row's targets say of its texts.

Legend: B rows, R texts of a batch, N pairs, D width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from llmtune.model import similarity
from llmtune.model.similarity import ANCHOR, BYSTANDER, LIKE, NEGATIVE
from llmtune.task.embedding_rows import MILLION, NO_SCORE


def collated(targets: Sequence[Sequence[int]], *, by_score: bool) -> dict[str, torch.Tensor]:
    """(R,) of every text of some rows: `side`, `text` (its number), `row`, and as `label` the row's score or NaN.

    Texts alone are there a second time, as their own likes. `by_score`: are pairs judged by their scores? Else those
    with a score below the middle are unlike, the others alike.
    """
    sides: list[int] = []
    texts: list[int] = []
    rows: list[int] = []
    scores: list[float] = []
    for row, (score, *numbers) in enumerate(targets):
        unlike = score != NO_SCORE and not by_score and 2 * score < MILLION
        sides += [BYSTANDER, NEGATIVE] if unlike else [ANCHOR, LIKE, *[NEGATIVE] * len(numbers)][: len(numbers)]
        texts += numbers
        rows += [row] * len(numbers)
        scores += [math.nan if score == NO_SCORE else score / MILLION] * len(numbers)
    if targets and max(map(len, targets)) == 2:
        sides, texts, rows, scores = sides + [LIKE] * len(sides), texts * 2, rows * 2, scores * 2
    return {
        "label": torch.tensor(scores), "side": torch.tensor(sides), "text": torch.tensor(texts),
        "row": torch.tensor(rows),
    }  # fmt: skip


def num_items(loss: str, targets: Mapping[str, torch.Tensor]) -> float:
    """What a loss is a sum over: pairs; for triplets the rows that have a text that is unlike."""
    side_R, row_R = targets["side"], targets["row"]
    if loss != "triplet":
        return float((side_R == LIKE).sum())
    likes, unlike = (set(row_R[side_R == side].tolist()) for side in (LIKE, NEGATIVE))
    return float(len(likes & unlike))


def total_loss(loss: str, settings: Any, vectors_RD: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The loss named, as a sum over `num_items`, over the whole vectors and their prefixes."""
    part = functools.partial(_of_vectors, loss, settings, targets)
    return similarity.over_prefixes(vectors_RD, settings.matryoshka, part)


def _of_vectors(
    loss: str, settings: Any, targets: Mapping[str, torch.Tensor], vectors_RD: torch.Tensor
) -> torch.Tensor:
    side_R = targets["side"]
    if loss == "in_batch":
        return similarity.in_batch(
            vectors_RD, side_R, targets["text"], temperature=settings.temperature, symmetric=settings.symmetric
        )
    if loss == "triplet":
        return similarity.triplets(vectors_RD, side_R, targets["row"], margin=settings.margin)
    score_N = targets["label"][side_R == ANCHOR]
    if loss == "cosine":
        return similarity.score_errors(vectors_RD, side_R, score_N)
    return similarity.score_order(vectors_RD, side_R, score_N, temperature=settings.temperature)

"""Losses of vectors that stand for texts: which of them lie near each other, and how near.

Each is a sum over items and, but for triplets and scored pairs by themselves, of a whole step: every item is compared
with all others.

Legend: R items compared (texts, or several views of each), N pairs, M texts that are unlike, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

ANCHOR, LIKE, NEGATIVE, BYSTANDER = range(4)
"""what an item is: a row, the other sight of it, what is unlike it, or only there because a batch can't be empty"""


def similarities(first_RD: torch.Tensor, second_RD: torch.Tensor, temperature: float) -> torch.Tensor:
    """(R, R) cosines of unit vectors over the temperature, in fp32 whatever the step's precision."""
    with torch.autocast(first_RD.device.type, enabled=False):
        return first_RD.float() @ second_RD.float().T / temperature


def likes_cross_entropy(scores_RR: torch.Tensor, likes_RR: torch.Tensor, others_RR: torch.Tensor) -> torch.Tensor:
    """Sum over rows r that have a like of -1/|P(r)| sum_{p in P(r)} log softmax over a in A(r) of scores[r, a] at p.

    Args:
        likes_RR: is the column one of P(r), which are among A(r)?
        others_RR: is it one of A(r)?
    """
    logs_RR = scores_RR.masked_fill(~others_RR, -torch.inf).log_softmax(-1)
    num_R = likes_RR.sum(-1)
    sums_R = logs_RR.masked_fill(~likes_RR, 0.0).sum(-1)
    return -(sums_R / num_R.clamp(min=1))[num_R > 0].sum()


def in_batch(
    items_RD: torch.Tensor, side_R: torch.Tensor, text_R: torch.Tensor, *, temperature: float, symmetric: bool
) -> torch.Tensor:
    """Sum over anchors of -log softmax of the cosine with their like, among all likes and negatives (InfoNCE;
    arXiv 1807.03748, 2004.04906).

    The n-th anchor belongs to the n-th like. What is no rival: another like of the same text, and the text itself
    under another number.

    Args:
        items_RD: unit vectors.
        side_R: ANCHOR, LIKE, NEGATIVE or BYSTANDER.
        text_R: equal texts have equal numbers.
        symmetric: the mean with the same loss of likes that look for their anchors.
    """
    anchors, likes, unlike = (side_R == side for side in (ANCHOR, LIKE, NEGATIVE))
    anchors_ND, likes_ND = items_RD[anchors], items_RD[likes]
    if not len(anchors_ND):
        return 0 * items_RD.sum()
    text_N, like_N = text_R[anchors, None], text_R[likes, None]
    own_NN = torch.eye(len(anchors_ND), dtype=torch.bool, device=items_RD.device)
    # the anchor and its like may bear one number: two sights of a row
    rivals_NN = own_NN | ((text_N != text_N.T) & (like_N != like_N.T) & (text_N != like_N.T))
    apart_NM = (text_N != text_R[unlike]) & (like_N != text_R[unlike])
    total = likes_cross_entropy(
        similarities(anchors_ND, torch.cat([likes_ND, items_RD[unlike]]), temperature),
        functional.pad(own_NN, (0, apart_NM.shape[1])), torch.cat([rivals_NN, apart_NM], dim=1),
    )  # fmt: skip
    if symmetric:
        back = likes_cross_entropy(similarities(likes_ND, anchors_ND, temperature), own_NN, rivals_NN.T)
        total = (total + back) / 2
    return total


def triplets(items_RD: torch.Tensor, side_R: torch.Tensor, row_R: torch.Tensor, *, margin: float) -> torch.Tensor:
    """Sum over rows with negatives of max(0, cos(anchor, negative) - cos(anchor, like) + margin), the mean over a row's
    negatives (FaceNet's loss, arXiv 1503.03832, on cosines).

    Args:
        row_R: number of the row that an item belongs to; each has one anchor and one like.
    """
    anchors_ND, likes_ND = items_RD[side_R == ANCHOR], items_RD[side_R == LIKE]
    unlike_MD, row_M = items_RD[side_R == NEGATIVE], row_R[side_R == NEGATIVE]
    if not len(anchors_ND) or not len(unlike_MD):
        return 0 * items_RD.sum()
    mine_MN = row_M[:, None] == row_R[side_R == ANCHOR]
    held_M = mine_MN.any(1)
    place_M = mine_MN.float().argmax(1)[held_M]
    near_N = (anchors_ND * likes_ND).sum(-1)
    losses_M = functional.relu((anchors_ND[place_M] * unlike_MD[held_M]).sum(-1) - near_N[place_M] + margin)
    return (losses_M / mine_MN.sum(0)[place_M]).sum()


def score_errors(items_RD: torch.Tensor, side_R: torch.Tensor, score_N: torch.Tensor) -> torch.Tensor:
    """Sum over pairs of (cosine - score)^2 (SBERT, arXiv 1908.10084); `score_N` from 0 to 1."""
    return ((pair_cosines(items_RD, side_R) - score_N) ** 2).sum()


def score_order(
    items_RD: torch.Tensor, side_R: torch.Tensor, score_N: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """N log(1 + sum over pairs i, j with score_i > score_j of exp((cosine_j - cosine_i) / temperature)): CoSENT.

    It asks for the right order of the cosines alone. One logarithm of a whole step, times its pairs so that the mean
    over pairs is the loss as it was published (Su 2022; also in AnglE, arXiv 2309.12871).
    """
    cosines_N = pair_cosines(items_RD, side_R) / temperature
    apart_NN = (cosines_N - cosines_N[:, None]).masked_fill(score_N[:, None] <= score_N, -torch.inf)
    return len(cosines_N) * functional.pad(apart_NN.flatten(), (1, 0)).logsumexp(0)


def pair_cosines(items_RD: torch.Tensor, side_R: torch.Tensor) -> torch.Tensor:
    """(N,) of the n-th anchor with the n-th like, from unit vectors."""
    return (items_RD[side_R == ANCHOR].float() * items_RD[side_R == LIKE].float()).sum(-1)


def over_prefixes(
    items_RD: torch.Tensor, widths: Sequence[int], total_of: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The sum of a loss over the whole vectors and over their first numbers, made unit vectors again (Matryoshka,
    arXiv 2205.13147)."""
    shorter = [functional.normalize(items_RD[:, :width], dim=-1) for width in widths if width < items_RD.shape[1]]
    totals = [total_of(some_RD) for some_RD in (items_RD, *shorter)]
    return torch.stack(totals).sum()

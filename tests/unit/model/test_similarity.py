"""Losses of vectors against a few lines of plain torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from llmtune.model.similarity import (
    ANCHOR,
    BYSTANDER,
    LIKE,
    NEGATIVE,
    in_batch,
    over_prefixes,
    score_errors,
    score_order,
    triplets,
)

SIDE = torch.tensor([ANCHOR, LIKE, NEGATIVE, NEGATIVE, ANCHOR, LIKE, ANCHOR, LIKE, NEGATIVE, BYSTANDER])
ROW = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 3])
TEXT = torch.arange(10, 20)


def vectors(num: int = 10, width: int = 6) -> torch.Tensor:
    draws = torch.Generator().manual_seed(4)
    return functional.normalize(torch.randn(num, width, generator=draws), dim=-1).requires_grad_()


@pytest.mark.parametrize("symmetric", [False, True])
def test_in_batch_is_a_cross_entropy_over_likes_and_negatives(symmetric: bool) -> None:
    items = vectors()
    anchors, candidates = items[[0, 4, 6]], items[[1, 5, 7, 2, 3, 8]]
    expected = functional.cross_entropy(anchors @ candidates.T / 0.1, torch.arange(3), reduction="sum")
    if symmetric:
        back = functional.cross_entropy(candidates[:3] @ anchors.T / 0.1, torch.arange(3), reduction="sum")
        expected = (expected + back) / 2
    total = in_batch(items, SIDE, TEXT, temperature=0.1, symmetric=symmetric)
    torch.testing.assert_close(total, expected)
    (found,) = torch.autograd.grad(total, items)
    assert found[9].abs().max() == 0  # a bystander is no rival


def test_the_same_text_is_no_rival() -> None:
    items, text = vectors(), TEXT.clone()
    text[4] = text[0]  # the second row has the first one's text: its partner is another answer to the first
    text[2] = text[7]  # a negative of the first row is the third row's partner
    text[8] = text[6]  # and one of the third row its own text
    scores = items @ items.T / 0.1
    rivals = {0: [1, 7, 2, 3, 8], 4: [5, 7, 2, 3, 8], 6: [1, 5, 7, 3]}
    expected = sum(scores[row, rivals[row]].logsumexp(0) - scores[row, row + 1] for row in (0, 4, 6))
    torch.testing.assert_close(in_batch(items, SIDE, text, temperature=0.1, symmetric=False), expected)


def test_nothing_to_compare_gives_no_loss_but_a_gradient_of_zero() -> None:
    items = vectors()
    for total in (
        in_batch(items, torch.full((10,), BYSTANDER), TEXT, temperature=0.1, symmetric=True),
        triplets(items, torch.tensor([ANCHOR, LIKE] * 5), ROW, margin=0.2),
    ):
        assert total == 0
        assert torch.autograd.grad(total, items)[0].abs().max() == 0


def test_triplets_are_hinges_averaged_over_a_rows_negatives() -> None:
    items = vectors().detach()
    first = [max(0.0, float(items[0] @ items[n] - items[0] @ items[1]) + 0.9) for n in (2, 3)]
    third = max(0.0, float(items[6] @ items[8] - items[6] @ items[7]) + 0.9)
    assert float(triplets(items, SIDE, ROW, margin=0.9)) == pytest.approx(sum(first) / 2 + third, rel=1e-5)


def test_scores_by_cosine_and_by_order() -> None:
    items, score = vectors().detach(), torch.tensor([0.2, 0.9, 0.2])
    cosines = [float(items[a] @ items[a + 1]) for a in (0, 4, 6)]
    expected = sum((c - float(s)) ** 2 for c, s in zip(cosines, score))
    assert float(score_errors(items, SIDE, score)) == pytest.approx(expected, rel=1e-5)
    pairs = [(i, j) for i in range(3) for j in range(3) if score[i] > score[j]]
    order = 3 * math.log(1 + sum(math.exp((cosines[j] - cosines[i]) / 0.1) for i, j in pairs))
    assert float(score_order(items, SIDE, score, temperature=0.1)) == pytest.approx(order, rel=1e-5)


def test_prefixes_are_made_unit_vectors_again_and_summed() -> None:
    items = vectors()

    def loss(some: torch.Tensor) -> torch.Tensor:
        return in_batch(some, SIDE, TEXT, temperature=0.1, symmetric=False)

    expected = loss(items) + sum(loss(functional.normalize(items[:, :width], dim=-1)) for width in (2, 4))
    torch.testing.assert_close(over_prefixes(items, [2, 4, 6], loss), expected)  # 6 is the whole

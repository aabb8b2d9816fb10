"""Losses of rows with one label, several labels or a number, one row at a time; and how far two predictions are apart.

Legend: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def loss_by_row(
    problem_type: str, logits_BC: torch.Tensor, label: torch.Tensor, *, weights_C: torch.Tensor | None = None,
    label_smoothing: float = 0.0, focal_gamma: float = 0.0,
) -> torch.Tensor:  # fmt: skip
    """Cross-entropy, binary cross-entropy summed over labels, or squared error of each row: (B,).

    focal_gamma: each class's part is multiplied by (1 - p)^gamma, p being what the model gives to what is right
    (focal loss; Lin et al., arXiv 1708.02002).
    """
    if problem_type == "regression":
        return F.mse_loss(logits_BC.squeeze(-1), label, reduction="none")
    if problem_type == "multi_label":
        losses_BC = F.binary_cross_entropy_with_logits(logits_BC, label, reduction="none")
        if focal_gamma:
            # loss = -log p, whatever is right
            losses_BC = losses_BC * (-torch.expm1(-losses_BC)).clamp(min=1e-12) ** focal_gamma
        return losses_BC.sum(-1)
    if not focal_gamma:
        return F.cross_entropy(logits_BC, label, weights_C, reduction="none", label_smoothing=label_smoothing)
    logs_BC = logits_BC.log_softmax(-1)
    wanted_BC = F.one_hot(label, logits_BC.shape[-1]) * (1 - label_smoothing) + label_smoothing / logits_BC.shape[-1]
    if weights_C is not None:
        wanted_BC = wanted_BC * weights_C
    return -(wanted_BC * (-torch.expm1(logs_BC)).clamp(min=1e-12) ** focal_gamma * logs_BC).sum(-1)


def divergence_by_row(problem_type: str, first_BC: torch.Tensor, second_BC: torch.Tensor) -> torch.Tensor:
    """(KL(first || second) + KL(second || first)) / 2 of each row, summed over labels; (first - second)^2 of numbers.

    The logarithms' normalisers fall out of the sum of both: sum_c (p_c - q_c) (log p_c - log q_c) is
    sum_c (p_c - q_c) (a_c - b_c) for logits a and b. The same holds for Bernoullis.
    """
    apart_BC = first_BC - second_BC
    if problem_type == "regression":
        return apart_BC.squeeze(-1) ** 2
    if problem_type == "multi_label":
        return ((first_BC.sigmoid() - second_BC.sigmoid()) * apart_BC).sum(-1) / 2
    return ((first_BC.softmax(-1) - second_BC.softmax(-1)) * apart_BC).sum(-1) / 2


def class_weights(rule: str, targets: Sequence[int], num_classes: int, beta: float) -> torch.Tensor:
    """Weight of each class, (C,), from the rows that it has.

    balanced: rows / (classes x rows of the class). effective: (1 - beta) / (1 - beta^rows of the class), scaled to a
    mean of 1 (Cui et al., arXiv 1901.05555); between no weights (beta 0) and balanced ones (beta towards 1).
    """
    counts_C = torch.bincount(torch.tensor(targets), minlength=num_classes).clamp(min=1)
    if rule == "balanced":
        return len(targets) / (num_classes * counts_C)
    weights_C = (1 - beta) / (1 - beta ** counts_C.double())
    return (weights_C / weights_C.mean()).float()

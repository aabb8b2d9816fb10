"""The losses of rankings: each candidate by itself, or the choice among a row's candidates.

Legend: B rows, R candidates of all rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from llmtune.task.losses import divergence_by_row


def losses(loss: str, logits_R: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """binary: of each candidate (R,); softmax: of each row (B,) the cross-entropy with its relevances, which add up to
    1 (ListNet's top-one loss with normalised grades)."""
    label_R, row_R = targets["label"], targets["row"]
    if loss == "binary":
        return functional.binary_cross_entropy_with_logits(logits_R, label_R, reduction="none")
    num = _num_rows(row_R)
    wanted_R = label_R / _sums(label_R, row_R, num).clamp(min=1e-9)[row_R]
    return -_sums(wanted_R * _logs(logits_R, row_R, num), row_R, num)


def shares(loss: str, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None) -> torch.Tensor:
    """By how much each of `losses` counts: 1, or its row's share; for softmax 0 where nothing in a row is relevant."""
    label_R, row_R = targets["label"], targets["row"]
    if loss == "binary":
        return torch.ones_like(label_R) if share_B is None else share_B.to(label_R)[row_R]
    held_B = (_sums(label_R, row_R, _num_rows(row_R)) > 0).to(label_R)
    return held_B if share_B is None else held_B * share_B.to(label_R)


def apart(
    loss: str, first_R: torch.Tensor, second_R: torch.Tensor, targets: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """KL(first || second) + KL(second || first), halved, in the form of `losses`."""
    row_R = targets["row"]
    if loss == "binary":
        return divergence_by_row("multi_label", first_R[:, None], second_R[:, None])
    num = _num_rows(row_R)
    first, second = (_logs(logits_R, row_R, num) for logits_R in (first_R, second_R))
    return _sums((first.exp() - second.exp()) * (first - second), row_R, num) / 2


def _num_rows(row_R: torch.Tensor) -> int:
    return int(row_R[-1]) + 1 if len(row_R) else 0


def _sums(values_R: torch.Tensor, row_R: torch.Tensor, num: int) -> torch.Tensor:
    return values_R.new_zeros(num).index_add(0, row_R, values_R)


def _logs(logits_R: torch.Tensor, row_R: torch.Tensor, num: int) -> torch.Tensor:
    """log softmax among the candidates of each row."""
    most_B = logits_R.new_full((num,), -torch.inf).scatter_reduce(0, row_R, logits_R.detach(), "amax")
    shifted_R = logits_R - most_B[row_R]
    return shifted_R - _sums(shifted_R.exp(), row_R, num).log()[row_R]

"""How far a prediction is from a teacher's, row by row (Hinton et al., arXiv 1503.02531).

Legend: B rows, C classes.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def distance_by_row(
    problem_type: str, logits_BC: torch.Tensor, wanted_BC: torch.Tensor, temperature: float
) -> torch.Tensor:
    """(B,): T^2 KL(teacher || student) of the softened classes; of each label that holds or not, summed; of numbers
    the squared difference. T^2 keeps the size of the gradient the same for all temperatures."""
    logits_BC, wanted_BC = logits_BC.float(), wanted_BC.float()
    if problem_type == "regression":
        return (logits_BC - wanted_BC).square().sum(-1)
    if problem_type == "multi_label":
        # a label that holds or not is a class of two
        logits_BC, wanted_BC = (torch.stack([each, -each], -1) / 2 for each in (logits_BC, wanted_BC))
    own = (logits_BC / temperature).log_softmax(-1)
    wanted = (wanted_BC / temperature).log_softmax(-1)
    divergence = F.kl_div(own, wanted, log_target=True, reduction="none").flatten(1).sum(-1)
    return temperature**2 * divergence


def num_items(problem_type: str, label: torch.Tensor) -> float:
    """What the sum of the distances is a sum over: rows, or rows x labels."""
    return float(label.numel() if problem_type == "multi_label" else len(label))

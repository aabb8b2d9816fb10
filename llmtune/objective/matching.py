"""Layers of one network made like those of another: hidden states and attention (TinyBERT, arXiv 1909.10351).

Legend: B rows, T tokens, D width, H heads, L layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from llmtune.core.seeds import fold


class Matching(nn.Module):
    """How far the student's layers are from the teacher's, by row; with a projection of its own where widths differ."""

    def __init__(self, pairs: list[tuple[int, int]], *, student_width: int, teacher_width: int, seed: int):
        super().__init__()
        self.pairs = pairs
        self.projections: nn.ModuleList | None = None
        if student_width != teacher_width:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(fold(seed, "matching"))
                self.projections = nn.ModuleList(
                    nn.Linear(student_width, teacher_width, bias=False) for _ in self.pairs
                )

    def hidden(self, student: Any, teacher: Any, view: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B,): |W h_s - h_t|^2 / |h_t|^2 over the real tokens of a row, the mean over the pairs of layers.

        Relative to the teacher's size, so that families with large hidden states need no other weight.
        """
        sums = []
        for number, (own, other) in enumerate(self.pairs):
            mine_BTD, wanted_BTD = student.hidden_states[own], teacher.hidden_states[other].float()
            if self.projections is not None:
                mine_BTD = self.projections[number](mine_BTD)
            real_BT = _real(view, wanted_BTD)
            apart_BT = (mine_BTD.float() - wanted_BTD).square().sum(-1)
            sums.append((apart_BT * real_BT).sum(-1) / (wanted_BTD.square().sum(-1) * real_BT).sum(-1).clamp(min=1e-12))
        return torch.stack(sums).mean(0)

    def attention(self, student: Any, teacher: Any, view: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B,): the squared difference of attention weights, summed over keys, the mean over heads, real queries and
        pairs of layers. Where the numbers of heads differ, of the mean over heads."""
        sums = []
        for own, other in self.pairs:
            if own == 0 or other == 0:
                continue
            mine_BHTT, wanted_BHTT = student.attentions[own - 1].float(), teacher.attentions[other - 1].float()
            if mine_BHTT.shape[1] != wanted_BHTT.shape[1]:
                mine_BHTT, wanted_BHTT = (each.mean(1, keepdim=True) for each in (mine_BHTT, wanted_BHTT))
            real_BT = _real(view, mine_BHTT[:, 0])
            apart_BT = (mine_BHTT - wanted_BHTT).square().sum(-1).mean(1)
            sums.append((apart_BT * real_BT).sum(-1) / real_BT.sum(-1))
        return torch.stack(sums).mean(0)


def _real(view: Mapping[str, torch.Tensor], like_BTX: torch.Tensor) -> torch.Tensor:
    mask_BT = view.get("attention_mask")
    return like_BTX.new_ones(like_BTX.shape[:2]) if mask_BT is None else mask_BT.to(like_BTX.dtype)


@torch.no_grad()
def teacher_output(model: Any, view: Mapping[str, torch.Tensor], wants: tuple[str, ...]) -> Any:
    """What the backbone of a teacher gives for the student's ids; inputs that its family doesn't know are left out."""
    backbone = model.base_model
    known = inspect.signature(backbone.forward).parameters
    inputs = {name: tensor for name, tensor in view.items() if name in known}
    return backbone(**inputs, **{f"output_{word}": True for word in wants})

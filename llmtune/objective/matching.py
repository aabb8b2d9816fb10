"""Layers of one network made like those of another: hidden states and attention (TinyBERT, arXiv 1909.10351).

Legend: R sequences, T tokens, K tokens that are attended to, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from llmtune.core.seeds import fold
from llmtune.objective.layer_pairs import Pairs


class Stack(NamedTuple):
    """What the layers of an encoder or of a decoder gave."""

    hidden_states: Sequence[torch.Tensor]
    """of each layer (R, T, D), what the embeddings gave first; empty where it was not asked for"""
    attentions: Sequence[Sequence[torch.Tensor]]
    """(R, H, T, K) of each layer; a decoder that reads an encoder has two kinds, what it reads of the encoder last"""


def stacks_of(output: Any) -> list[Stack]:
    """Those of a backbone's ModelOutput: one, or an encoder's and a decoder's."""

    def of(prefix: str, *more: str) -> Stack:
        kinds = [getattr(output, name, None) for name in (f"{prefix}attentions", *more)]
        return Stack(getattr(output, f"{prefix}hidden_states", None) or (), [kind for kind in kinds if kind])

    names = ("encoder_hidden_states", "encoder_attentions", "decoder_hidden_states", "decoder_attentions")
    if any(getattr(output, name, None) is not None for name in names):
        return [of("encoder_"), of("decoder_", "cross_attentions")]
    return [of("")]


class Matching(nn.Module):
    """How far the student's layers are from the teacher's, by sequence; projected where widths differ.

    Args:
        pairs: of each stack, see layer_pairs.
    """

    def __init__(self, pairs: list[Pairs], *, student_width: int, teacher_width: int, seed: int):
        super().__init__()
        self.pairs = pairs
        self.projections: nn.ModuleList | None = None
        if student_width != teacher_width:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(fold(seed, "matching"))
                self.projections = nn.ModuleList(
                    nn.Linear(student_width, teacher_width, bias=False) for own in self.pairs for _ in own
                )

    def hidden(self, student: Any, teacher: Any, real: Sequence[torch.Tensor]) -> torch.Tensor:
        """(R,): |W h_s - h_t|^2 / |h_t|^2 over the real tokens of a sequence, the mean over the pairs of layers.

        Relative to the teacher's size, so that families with large hidden states need no other weight.

        Args:
            real: of each stack which tokens are real, (R, T).
        """
        sums = []
        for number, (own, other, i, j, real_RT) in enumerate(self._paired(student, teacher, real)):
            mine_RTD, wanted_RTD = own.hidden_states[i], other.hidden_states[j].float()
            if self.projections is not None:
                mine_RTD = self.projections[number](mine_RTD)
            apart_RT = (mine_RTD.float() - wanted_RTD).square().sum(-1)
            size_R = (wanted_RTD.square().sum(-1) * real_RT).sum(-1)
            sums.append((apart_RT * real_RT).sum(-1) / size_R.clamp(min=1e-12))
        return torch.stack(sums).mean(0)

    def attention(self, student: Any, teacher: Any, real: Sequence[torch.Tensor]) -> torch.Tensor:
        """(R,): the squared difference of attention weights, summed over keys, the mean over heads, real queries and
        pairs of layers. Where the numbers of heads differ, of the mean over heads."""
        sums = []
        for own, other, i, j, real_RT in self._paired(student, teacher, real):
            if i == 0 or j == 0:
                continue
            for mine, wanted in zip(own.attentions, other.attentions):
                mine_RHTK, wanted_RHTK = mine[i - 1].float(), wanted[j - 1].float()
                if mine_RHTK.shape[1] != wanted_RHTK.shape[1]:
                    mine_RHTK, wanted_RHTK = (each.mean(1, keepdim=True) for each in (mine_RHTK, wanted_RHTK))
                apart_RT = (mine_RHTK - wanted_RHTK).square().sum(-1).mean(1)
                sums.append((apart_RT * real_RT).sum(-1) / real_RT.sum(-1).clamp(min=1))
        return torch.stack(sums).mean(0)

    def _paired(
        self, student: Any, teacher: Any, real: Sequence[torch.Tensor]
    ) -> Iterator[tuple[Stack, Stack, int, int, torch.Tensor]]:
        for own, other, pairs, real_RT in zip(stacks_of(student), stacks_of(teacher), self.pairs, real):
            for i, j in pairs:
                yield own, other, i, j, real_RT.float()

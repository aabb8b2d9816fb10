"""Gradients that conflict are projected apart (PCGrad; Yu et al., arXiv 2001.06782)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmtune.balance.terms import refuse_one_term, refuse_without_gradients
from llmtune.core.parts import Parts, Prospect
from llmtune.core.seeds import generator
from llmtune.core.terms import is_balanced, terms_of

if TYPE_CHECKING:
    import torch

    Gradient = Sequence[torch.Tensor | None]


@dataclass(frozen=True, kw_only=True)
class PCGrad:
    name: str

    def check(self, prospect: Prospect) -> None:
        refuse_one_term(prospect, is_balanced)
        refuse_without_gradients(prospect)

    def build(self, parts: Parts) -> Projections:
        return Projections(terms_of(parts, is_balanced), parts.config.seed, frozenset(parts.layers.places))


class Projections:
    """The sum of all gradients, each freed first of what points against another.

    Objective i's gradient g_i loses, for the others j in an order drawn anew each step, its part along g_j wherever
    their inner product is below 0 (algorithm 1 of the paper). Inner products and norms are of the parameters that
    two or more objectives reach: a head of its own is in nobody's way.
    """

    learns = False

    def __init__(self, names: list[str], seed: int, everything: frozenset[str]):
        self.names = names
        self.seed = seed
        self.watched = [everything]

    def weights(self, given: Mapping[str, float]) -> dict[str, float]:
        return dict(given)

    def combine(self, step: int, gradients: Mapping[str, Gradient]) -> list[torch.Tensor | None]:
        """One gradient for each parameter; `gradients`: by objective, weighted, None where it does not reach."""
        names = [name for name in gradients if name in self.names]
        shared = [sum(gradients[name][place] is not None for name in names) > 1
                  for place in range(len(next(iter(gradients.values()))))]  # fmt: skip
        rng = generator(self.seed, "pcgrad", step)
        freed: list[Gradient] = [gradients[name] for name in gradients if name not in self.names]
        for name in names:
            others = [other for other in names if other != name]
            mine = list(gradients[name])
            for number in rng.permutation(len(others)):
                _free(mine, gradients[others[number]], shared)
            freed.append(mine)
        return [_sum(column) for column in zip(*freed)]


def _free(mine: list[torch.Tensor | None], other: Gradient, shared: list[bool]) -> None:
    """Take out of `mine`, in place of its items, its part along `other` if the two conflict."""
    product = squared = 0.0
    for one, two, is_shared in zip(mine, other, shared):
        if is_shared and two is not None:
            squared += float(two.double().pow(2).sum())
            if one is not None:
                product += float((one.double() * two.double()).sum())
    if product >= 0:
        return
    for place, two in enumerate(other):
        if shared[place] and two is not None:
            one = mine[place]
            mine[place] = (two * 0 if one is None else one) - (product / squared) * two


def _sum(gradients: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    there = [gradient for gradient in gradients if gradient is not None]
    return sum(there[1:], there[0]) if there else None

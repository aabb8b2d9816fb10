"""Weights learnt so that gradients have like norms (GradNorm; Chen et al., arXiv 1711.02257)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmtune.balance.terms import Adam, means, refuse_one_term, refuse_without_gradients
from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import at_least, positive
from llmtune.core.terms import TINY, falls, share_left, terms_of

SMALLEST = 1e-3
"""a weight never reaches 0: it could not come back"""


@dataclass(frozen=True, kw_only=True)
class GradNorm:
    name: str
    alpha: float
    lr: float

    def __post_init__(self) -> None:
        at_least("alpha", self.alpha, 0)
        positive("lr", self.lr)

    def check(self, prospect: Prospect) -> None:
        refuse_one_term(prospect, falls)
        refuse_without_gradients(prospect)

    def build(self, parts: Parts) -> LikeNorms:
        layers = parts.layers
        shared = [layers.at(place) for place in reversed(layers.order) if place not in ("head", "final")]
        return LikeNorms(terms_of(parts, falls), self, shared)


class LikeNorms:
    """Weights w_i, from 1 on and of mean 1, made smaller and larger by the loss

        sum_i | G_i - mean(G) r_i^alpha |,   r_i = (L_i / L_i(0)) / mean(L / L(0))         (equation 2 of the paper)

    with G_i the norm of the gradient of w_i L_i on the topmost shared layer that trains; what G_i is compared with
    counts as constant. The weight of an objective is its own times w_i. Only objectives that a step had items of,
    and whose gradient reaches that layer, are changed by it. Beyond the paper: L_i / L_i(0) is at most 1, since L_i(0)
    is that of one batch and may be next to nothing; a loss that starts at 0 whatever the batch keeps its own weight.
    """

    learns = True

    def __init__(self, names: list[str], settings: GradNorm, watched: list[frozenset[str]]):
        self.factors = dict.fromkeys(names, 1.0)
        self.starts: dict[str, float] = {}
        """by objective: its first loss"""
        self.alpha = settings.alpha
        self.adam = Adam(settings.lr)
        self.watched = watched

    def weights(self, given: Mapping[str, float]) -> dict[str, float]:
        return {name: own * self.factors.get(name, 1.0) for name, own in given.items()}

    def follow(self, step: int, result: Any) -> None:
        ratios = {}
        for name, loss in means(result.sums, list(self.factors)).items():
            if loss > TINY:
                ratios[name] = share_left(loss, self.starts.setdefault(name, loss))
        norms = {name: result.norms[name] for name in ratios if result.norms.get(name)}
        if len(norms) < 2:
            return
        for name, gradient in self.gradients(norms, ratios).items():
            self.factors[name] = max(SMALLEST, self.factors[name] + self.adam.change(name, gradient))
        scale = len(self.factors) / sum(self.factors.values())
        self.factors = {name: factor * scale for name, factor in self.factors.items()}

    def gradients(self, norms: Mapping[str, float], ratios: Mapping[str, float]) -> dict[str, float]:
        """Of the loss above by w_i: G_i is linear in w_i."""
        mean_norm = sum(norms.values()) / len(norms)
        mean_ratio = sum(ratios[name] for name in norms) / len(norms)
        found = {}
        for name, norm in norms.items():
            gap = norm - mean_norm * (ratios[name] / mean_ratio) ** self.alpha
            found[name] = (norm / self.factors[name]) * ((gap > 0) - (gap < 0))
        return found

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"factors": self.factors, "starts": self.starts, "moments": self.adam.moments}

    def load_state(self, tensors: Mapping[str, Any], plain: Mapping[str, Any]) -> None:
        self.factors = {name: plain["factors"][name] for name in self.factors}
        self.starts = plain["starts"]
        self.adam.moments = plain["moments"]

"""Weights learnt as homoscedastic uncertainty (Kendall, Gal and Cipolla, arXiv 1705.07115)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmtune.balance.terms import Adam, means, refuse_one_term
from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import positive
from llmtune.core.terms import falls, terms_of


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    name: str
    lr: float

    def __post_init__(self) -> None:
        positive("lr", self.lr)

    def check(self, prospect: Prospect) -> None:
        refuse_one_term(prospect, falls)

    def build(self, parts: Parts) -> LogVariances:
        return LogVariances(terms_of(parts, falls), self.lr)


class LogVariances:
    """s_i = log sigma_i^2 of each objective, from 0 on, made smaller and larger by the loss

        sum_i exp(-s_i) L_i + s_i / 2                                                     (equation 10 of the paper)

    whose gradient is 1/2 - exp(-s_i) L_i, L_i the mean loss over the whole step: no graph is needed. The weight of
    an objective is its own times exp(-s_i), which ends at 1 / (2 L_i). A loss that starts at 0 has no size to learn by.
    """

    learns = True
    watched: tuple[frozenset[str], ...] = ()

    def __init__(self, names: list[str], lr: float):
        self.log_variances = dict.fromkeys(names, 0.0)
        self.adam = Adam(lr)

    def weights(self, given: Mapping[str, float]) -> dict[str, float]:
        return {name: own * math.exp(-self.log_variances.get(name, 0.0)) for name, own in given.items()}

    def follow(self, step: int, result: Any) -> None:
        for name, loss in means(result.sums, list(self.log_variances)).items():
            gradient = 0.5 - math.exp(-self.log_variances[name]) * loss
            self.log_variances[name] += self.adam.change(name, gradient)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"log_variances": self.log_variances, "moments": self.adam.moments}

    def load_state(self, tensors: Mapping[str, Any], plain: Mapping[str, Any]) -> None:
        self.log_variances = {name: plain["log_variances"][name] for name in self.log_variances}
        self.adam.moments = plain["moments"]

"""Freeze layers from the bottom up as their gradients settle, as AutoFreeze does (Liu et al., arXiv 2102.01386)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.core.clock import parse_period, period_steps
from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts
from llmtune.core.ranges import at_least, between
from llmtune.freeze_policy.choosing import refuse_unsure_layers

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Converging:
    name: str
    every: int | str
    percentile: float
    start: int | str
    keep: int

    def __post_init__(self) -> None:
        parse_period("every", self.every)
        if str(self.start) != "0":
            parse_period("start", self.start)
        between("percentile", self.percentile, 0, 100)
        at_least("keep", self.keep, 1)

    def build(self, parts: Parts) -> _Settling:
        start = 0 if str(self.start) == "0" else period_steps(self.start, parts.steps_per_epoch) or 0
        return _Settling(self, parts, every=period_steps(self.every, parts.steps_per_epoch) or 1, start=start)

    def check(self, prospect: Any) -> None:
        """Raises ConfigError if the layers are not known or all kept, or if gradients are not left as they are."""
        refuse_unsure_layers(prospect, self.name)
        num_layers, train = prospect.layers.num_layers, prospect.config.train
        changed = {"train.clip_value": train.clip_value, "train.grad_noise": train.grad_noise}
        faults = [
            Fault(key, f"{value}, while freeze_policy=converging measures how gradients change", "",
                  f"type {key}={'null' if key == 'train.clip_value' else 0}, or another freeze_policy")
            for key, value in changed.items() if value
        ]  # fmt: skip
        if faults:
            raise ConfigError(*faults)
        if self.keep > num_layers:
            raise ConfigError(
                Fault("freeze_policy.keep", f"{self.keep}, but the model has {num_layers} layers", f"1 to {num_layers}")
            )


class _Settling:
    """Where each place's gradient stands, and how many places from the bottom are frozen.

    The norm of a place's gradient, before clipping, is averaged over an interval: m_t. A place has settled if
    |m_t - m_(t-1)| / m_(t-1) lies below the given percentile of that of all places that still train, head apart; it is
    frozen if everything below it is. What is frozen stays so. All processes see the same gradients and decide alike.
    """

    changes = True

    def __init__(self, settings: Converging, parts: Parts, *, every: int, start: int):
        import torch

        self.settings, self.every, self.start = settings, every, start
        self.say = parts.console.say
        layers = parts.layers
        parameters = dict(parts.network.named_parameters())
        self.places = [place for place in layers.order if layers.trainable_at(place)]
        self.parameters = [[parameters[name] for name in sorted(layers.trainable_at(place))] for place in self.places]
        kept = {"final", "head", *layers.order[1 + layers.num_layers - settings.keep :]}
        self.most = next((number for number, place in enumerate(self.places) if place in kept), len(self.places))
        """so many places at the bottom may be frozen"""
        self.depth = 0
        """so many are"""
        self.steps = 0
        self.sums_P = torch.zeros(len(self.places), dtype=torch.float64)
        self.before_P = torch.full((len(self.places),), math.nan, dtype=torch.float64)
        """means over the last interval, NaN before there was one"""
        self.frozen_at: dict[str, int] = {}

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        return layers.trainable_at(*self.places[self.depth :])

    def follow(self, step: int, result: Any) -> None:
        """Add this step's gradients; at the end of an interval decide what has settled."""
        if self.depth == self.most or not math.isfinite(result.grad_norm):
            return
        self.sums_P += self._norms(result.grad_norm)
        self.steps += 1
        if (step + 1) % self.every:
            return
        means_P = self.sums_P / self.steps
        if step + 1 >= self.start and not self.before_P.isnan().any():
            self._freeze(means_P, step + 1)
        self.before_P, self.steps = means_P, 0
        self.sums_P.zero_()

    def _norms(self, whole: float) -> torch.Tensor:
        """Norm of each place's gradient; `whole` is that of all before they were clipped."""
        import torch

        norms_P = torch.zeros(len(self.places), dtype=torch.float64)
        for number in range(self.depth, len(self.places)):
            gradients = [parameter.grad for parameter in self.parameters[number] if parameter.grad is not None]
            if gradients:
                norms_P[number] = torch.nn.utils.get_total_norm(gradients).double().cpu()
        clipped = float(norms_P.norm())
        return norms_P * (whole / clipped) if clipped else norms_P

    def _freeze(self, means_P: torch.Tensor, step: int) -> None:
        import torch

        change_P = (means_P - self.before_P).abs() / self.before_P.clamp(min=1e-30)
        active = [number for number in range(self.depth, len(self.places)) if self.places[number] != "head"]
        if not active:
            return
        limit = float(torch.quantile(change_P[active], self.settings.percentile / 100))
        reached = self.depth
        while reached < self.most and float(change_P[reached]) < limit:
            reached += 1
        if reached > self.depth:
            settled = self.places[self.depth : reached]
            self.frozen_at.update(dict.fromkeys(settled, step))
            self.say(f"step {step}: {', '.join(settled)} settled and {'is' if len(settled) == 1 else 'are'} frozen")
            self.depth = reached

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors = {"sums": self.sums_P, "before": self.before_P}
        return tensors, {"depth": self.depth, "steps": self.steps, "frozen_at": self.frozen_at}

    def load_state(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        self.sums_P, self.before_P = tensors["sums"].clone(), tensors["before"].clone()
        self.depth, self.steps, self.frozen_at = plain["depth"], plain["steps"], dict(plain["frozen_at"])

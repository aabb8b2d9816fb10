"""Gradual unfreezing: the head first, then layer after layer from the top down (ULMFiT, arXiv 1801.06146)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmtune.core.clock import parse_period
from llmtune.core.parts import Parts
from llmtune.core.ranges import at_least
from llmtune.freeze_policy.choosing import refuse_idle_adapter, refuse_unsure_layers
from llmtune.freeze_policy.phases import Phases, evenly, ever_trained


@dataclass(frozen=True, kw_only=True)
class Gradual:
    name: str
    every: int | str
    at_once: int

    def __post_init__(self) -> None:
        if self.every != "auto":
            parse_period("every", self.every)
        at_least("at_once", self.at_once, 1)

    def build(self, parts: Parts) -> Phases:
        return self._phases(parts)

    def check(self, prospect: Any) -> None:
        """Raises ConfigError if the layers are not known, or an adapter is not reached before the run ends."""
        refuse_unsure_layers(prospect, self.name)
        ever = ever_trained(self._phases(prospect), prospect.layers, prospect.num_steps)
        refuse_idle_adapter(prospect, self.name, ever)

    def _phases(self, where: Any) -> Phases:
        """Top to bottom; a stage that would add nothing (no final norm, no adapter there) is passed over."""
        places = [f"layer {i}" for i in range(where.layers.num_layers)]
        groups: list[tuple[str, ...]] = [("final", "head")]
        while places:
            groups.append(tuple(places[-self.at_once :]))
            del places[-self.at_once :]
        groups.append(("embeddings",))
        stages: list[tuple[str, ...]] = []
        for group in groups:
            if where.layers.trainable_at(*group):
                stages.append((*group, *(stages[-1] if stages else ())))
        return Phases(evenly(stages, self.every, where, share=0.5))

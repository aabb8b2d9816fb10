"""Chain-thaw: the head, then each layer alone from the bottom up, then everything (DeepMoji, arXiv 1708.00524)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmtune.core.clock import parse_period
from llmtune.core.parts import Parts
from llmtune.freeze_policy.choosing import refuse_idle_adapter, refuse_unsure_layers
from llmtune.freeze_policy.phases import Phases, evenly, ever_trained


@dataclass(frozen=True, kw_only=True)
class ChainThaw:
    name: str
    every: int | str

    def __post_init__(self) -> None:
        if self.every != "auto":
            parse_period("every", self.every)

    def build(self, parts: Parts) -> Phases:
        return self._phases(parts)

    def check(self, prospect: Any) -> None:
        """Raises ConfigError if the layers are not known, or an adapter is not reached before the run ends."""
        refuse_unsure_layers(prospect, self.name)
        ever = ever_trained(self._phases(prospect), prospect.layers, prospect.num_steps)
        refuse_idle_adapter(prospect, self.name, ever)

    def _phases(self, where: Any) -> Phases:
        """The final norm goes with the head; a place where nothing could train is passed over."""
        layers = where.layers
        alone = [("final", "head"), ("embeddings",), *((f"layer {i}",) for i in range(layers.num_layers))]
        stages = [places for places in alone if layers.trainable_at(*places)]
        count = len(stages) + 1
        return Phases(evenly([*stages, tuple(layers.order)], self.every, where, share=(count - 1) / count))

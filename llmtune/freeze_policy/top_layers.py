"""Only the topmost layers and the head train; no gradient goes below them (Howard and Ruder's "last k", 1801.06146)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llmtune.core.parts import Parts
from llmtune.freeze_policy.choosing import (
    check_number,
    number_of_layers,
    refuse_idle_adapter,
    refuse_more_layers,
    refuse_unsure_layers,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TopLayers:
    name: str
    layers: float
    changes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("layers", self.layers, 0)

    def build(self, parts: Parts) -> TopLayers:
        return self

    def check(self, prospect: Any) -> None:
        """Raises ConfigError if the model has fewer layers, or unknown ones, or an adapter in frozen ones alone."""
        refuse_unsure_layers(prospect, self.name)
        refuse_more_layers("layers", self.layers, prospect.layers)
        refuse_idle_adapter(prospect, self.name, self.trainable(prospect.layers, 0))

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        first = layers.num_layers - number_of_layers(self.layers, layers)
        return layers.trainable_at(*layers.order[1 + first :])

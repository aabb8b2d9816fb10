"""Freeze the embeddings and the lowest layers, whose features are the most general (Lee et al., arXiv 1911.03090)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts
from llmtune.core.ranges import at_least


@dataclass(frozen=True, kw_only=True)
class BottomLayers:
    name: str
    layers: float
    changes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least("layers", self.layers, 0)
        if self.layers > 1 and self.layers % 1:
            raise ValueError(f"layers: {self.layers} is no number of layers; whole from 1 on, a share below")

    def build(self, parts: Parts) -> BottomLayers:
        self.check(parts.layers)
        return self

    def check(self, layers: Any) -> None:
        """Raises ConfigError if the model has fewer layers."""
        if self.layers > layers.num_layers:
            raise ConfigError(
                Fault("freeze_policy.layers", f"{self.layers:g}, but the model has {layers.num_layers} layers",
                      f"0 to {layers.num_layers}, or a share below 1")
            )  # fmt: skip

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        share = self.layers * layers.num_layers if self.layers < 1 else self.layers
        frozen = layers.at("embeddings", *(f"layer {i}" for i in range(round(share))))
        return frozenset(layers.places) - frozen

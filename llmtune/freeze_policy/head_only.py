"""Linear probe: the backbone stays as it is, the head trains (with the backbone's pooler, which is its first layer)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llmtune.core.parts import Parts
from llmtune.core.ranges import positive
from llmtune.freeze_policy.choosing import refuse_empty_head, refuse_idle_adapter


@dataclass(frozen=True, kw_only=True)
class HeadOnly:
    name: str
    lr_factor: float
    changes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive("lr_factor", self.lr_factor)

    def build(self, parts: Parts) -> HeadOnly:
        return self

    def check(self, prospect: Any) -> None:
        """Raises ConfigError if the head is but the embeddings again, or if an adapter would never train."""
        refuse_empty_head(prospect, self.name)
        refuse_idle_adapter(prospect, self.name, self.trainable(prospect.layers, 0))

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        return layers.trainable_at("head")

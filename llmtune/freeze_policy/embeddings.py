"""The embeddings stay as they are, so that words which the training rows lack keep their neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llmtune.core.parts import Parts
from llmtune.freeze_policy.choosing import refuse_idle_adapter


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    name: str
    changes: ClassVar[bool] = False

    def build(self, parts: Parts) -> Embeddings:
        return self

    def check(self, prospect: Any) -> None:
        """Raises ConfigError if an adapter sits at the embeddings alone."""
        refuse_idle_adapter(prospect, self.name, self.trainable(prospect.layers, 0))

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        return layers.trainable_at(*layers.order[1:])

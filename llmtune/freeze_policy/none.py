"""No freezing: everything trains; where the model has an adapter, the adapter and the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llmtune.core.parts import Parts


@dataclass(frozen=True, kw_only=True)
class NoFreezing:
    name: str
    changes: ClassVar[bool] = False

    def build(self, parts: Parts) -> NoFreezing:
        return self

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        return layers.everything

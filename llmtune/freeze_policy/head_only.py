"""Linear probe: the backbone stays as it is, the head trains (with the backbone's pooler, which is its first layer)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llmtune.core.parts import Parts


@dataclass(frozen=True, kw_only=True)
class HeadOnly:
    name: str
    changes: ClassVar[bool] = False

    def build(self, parts: Parts) -> HeadOnly:
        return self

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        return layers.at("head")

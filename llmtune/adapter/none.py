"""No adapter: the network stays as it was loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llmtune.core.parts import Parts


@dataclass(frozen=True, kw_only=True)
class NoAdapter:
    name: str
    lr_factor: ClassVar[float] = 1.0

    def build(self, parts: Parts) -> NoAdapter:
        return self

    def wrap(self, network: Any) -> Any:
        return network

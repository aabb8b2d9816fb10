"""Bottleneck adapters: small networks behind sub-layers (Houlsby, arXiv 1902.00751; Pfeiffer, 2005.00247)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmtune.adapter.targets import check_targets
from llmtune.adapter.tuner import seed_of
from llmtune.core.parts import Parts
from llmtune.core.ranges import at_least, between, one_of, positive


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    name: str
    width: int
    after: str
    activation: str
    dropout: float
    targets: str | list[str]
    lr_factor: float

    def __post_init__(self) -> None:
        at_least("width", self.width, 1)
        one_of("after", self.after, ("both", "feed_forward"))
        one_of("activation", self.activation, ("gelu", "relu", "silu", "tanh"))
        between("dropout", self.dropout, 0, 0.9)
        check_targets(self.targets)
        positive("lr_factor", self.lr_factor)

    def build(self, parts: Parts | None) -> Any:
        from llmtune.adapter.sublayers import BehindSublayers

        return BehindSublayers(self, seed_of(parts))

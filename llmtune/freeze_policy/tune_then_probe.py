"""Everything first, then the head alone: features are formed, then read (SetFit's two stages, arXiv 2209.11055)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmtune.core.clock import parse_period, period_steps
from llmtune.core.parts import Parts
from llmtune.freeze_policy.choosing import refuse_empty_head
from llmtune.freeze_policy.phases import Phase, Phases

SHARE = 0.25
"""of the run, in which everything trains where `tune` is auto: as long as SetFit's first stage is there"""


@dataclass(frozen=True, kw_only=True)
class TuneThenProbe:
    name: str
    tune: int | str

    def __post_init__(self) -> None:
        if self.tune != "auto":
            parse_period("tune", self.tune)

    def build(self, parts: Parts) -> Phases:
        if self.tune == "auto":
            probe = max(1, int(SHARE * parts.num_steps))
        else:
            probe = period_steps(self.tune, parts.steps_per_epoch) or 1
        return Phases([Phase(0, tuple(parts.layers.order)), Phase(probe, ("head",))])

    def check(self, prospect: Any) -> None:
        """Raises ConfigError if the model has no head of its own to end with."""
        refuse_empty_head(prospect, self.name)

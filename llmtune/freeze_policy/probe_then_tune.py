"""The head alone first, then everything: features keep until the head fits them (LP-FT, arXiv 2202.10054)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmtune.core.clock import parse_period, period_steps
from llmtune.core.parts import Parts
from llmtune.core.ranges import positive
from llmtune.freeze_policy.choosing import refuse_empty_head, refuse_idle_adapter
from llmtune.freeze_policy.phases import Phase, Phases, ever_trained


@dataclass(frozen=True, kw_only=True)
class ProbeThenTune:
    name: str
    probe: int | str
    probe_lr_factor: float

    def __post_init__(self) -> None:
        parse_period("probe", self.probe)
        positive("probe_lr_factor", self.probe_lr_factor)

    def build(self, parts: Parts) -> Phases:
        return self._phases(parts)

    def check(self, prospect: Any) -> None:
        """Raises ConfigError if the model has no head of its own, or if an adapter is not reached in this run."""
        refuse_empty_head(prospect, self.name)
        ever = ever_trained(self._phases(prospect), prospect.layers, prospect.num_steps)
        refuse_idle_adapter(prospect, self.name, ever)

    def _phases(self, where: Any) -> Phases:
        tune = period_steps(self.probe, where.steps_per_epoch) or 1
        return Phases([Phase(0, ("head",), self.probe_lr_factor), Phase(tune, tuple(where.layers.order), 1.0)])

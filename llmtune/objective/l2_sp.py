"""Weights stay near those that the model came with (L2-SP; Li, Grandvalet and Davoine, arXiv 1802.01483)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import at_least, weight
from llmtune.core.schedules import weight_schedule

if TYPE_CHECKING:
    from llmtune.objective.starting_weights import Nearness


@dataclass(frozen=True, kw_only=True)
class L2Sp:
    name: str
    weight: float | str
    new_weights: float
    balanced: ClassVar[bool] = False
    """a distance keeps its own weight, whatever `balance` makes of losses"""

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        at_least("new_weights", self.new_weights, 0)

    def build(self, parts: Parts) -> Nearness:
        from llmtune.objective.starting_weights import Nearness, Starts, held_and_new

        held, new = held_and_new(parts)
        others = {name: weight for name, weight in parts.network.named_parameters() if name in new}
        schedule = weight_schedule(self.weight, parts.num_steps)
        return Nearness(self.name, schedule, Starts(parts.network, held), others=others, others_share=self.new_weights)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError if nothing that the model came with trains."""
        from llmtune.objective.starting_weights import held_and_new, refuse_nothing_to_hold

        refuse_nothing_to_hold(prospect, self.name, held_and_new(prospect)[0])

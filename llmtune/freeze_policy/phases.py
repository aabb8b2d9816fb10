"""Phases: places that train from a step on; what every freeze policy builds that is a function of the step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

from llmtune.core.clock import period_steps


class Phase(NamedTuple):
    step: int
    """optimizer step with which it begins"""
    places: tuple[str, ...]
    """all that train, from then on"""


class Phases:
    """A freeze policy that goes through phases; the first begins at step 0."""

    def __init__(self, phases: Sequence[Phase]):
        self.phases = tuple(phases)
        self.changes = len(self.phases) > 1

    @property
    def steps_of_change(self) -> tuple[int, ...]:
        """Steps at which what trains may be other than before."""
        return tuple(phase.step for phase in self.phases)

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        return layers.trainable_at(*self.phases[bisect_right(self.steps_of_change, step) - 1].places)


def evenly(stages: Sequence[tuple[str, ...]], every: int | str, where: Any, share: float) -> list[Phase]:
    """One phase after the other, each `every` steps long.

    `where`: Parts or Prospect. `every: auto` spreads the beginnings of all phases over `share` of the run.
    """
    if every == "auto":
        length = max(1, int(share * where.num_steps / max(1, len(stages) - 1)))
    else:
        length = period_steps(every, where.steps_per_epoch) or 1
    return [Phase(number * length, places) for number, places in enumerate(stages)]


def ever_trained(policy: Any, layers: Any, num_steps: int) -> frozenset[str]:
    """All names that train at some step of a run of `num_steps`."""
    steps = [step for step in getattr(policy, "steps_of_change", (0,)) if step < num_steps]
    return frozenset().union(*(policy.trainable(layers, step) for step in steps))

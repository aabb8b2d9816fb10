"""Phases: places that train from a step on; what every freeze policy builds that is a function of the step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from llmtune.core.clock import period_steps
from llmtune.run.console import Console

LOOKS = 64


class Phase(NamedTuple):
    step: int
    """optimizer step with which it begins"""
    places: tuple[str, ...]
    """all that train, from then on"""
    lr_factor: float | None = None
    """where the schedule of the learning rate begins anew: what it is multiplied by; None: it goes on"""


class Phases:
    """A freeze policy that goes through phases; the first begins at step 0."""

    def __init__(self, phases: Sequence[Phase]):
        self.phases = tuple(phases)
        self.changes = len(self.phases) > 1

    @property
    def steps_of_change(self) -> tuple[int, ...]:
        """Steps at which what trains may be other than before."""
        return tuple(phase.step for phase in self.phases)

    @property
    def lr_stages(self) -> tuple[tuple[int, float], ...]:
        """As core.schedules.staged_lr_schedule takes them."""
        first, *others = self.phases
        anew = ((phase.step, phase.lr_factor) for phase in others if phase.lr_factor is not None)
        return ((first.step, 1.0 if first.lr_factor is None else first.lr_factor), *anew)

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
    """All names that train at some step of a run of `num_steps`.

    Of a policy that changes and tells no `steps_of_change`: at some of LOOKS steps, spread evenly.
    """
    if not policy.changes:
        steps: Sequence[int] = (0,)
    elif hasattr(policy, "steps_of_change"):
        steps = [step for step in policy.steps_of_change if step < num_steps]
    else:
        steps = [*range(0, num_steps, max(1, num_steps // LOOKS)), num_steps - 1]
    return frozenset().union(*(policy.trainable(layers, step) for step in steps)) - layers.fixed


def will_train(where: Any) -> frozenset[str]:
    """Of the task model's parameters those that train at some step of the run.

    `where`: Parts or Prospect.
    """
    return ever_trained(_policy(where), where.layers, where.num_steps)


def never_trains(where: Any) -> frozenset[str]:
    """Parameters that surely train at no step of the run: none where a policy changes and does not tell when.

    `where`: Parts or Prospect.
    """
    policy, layers = _policy(where), where.layers
    if policy.changes and not hasattr(policy, "steps_of_change"):
        return frozenset()
    return layers.places.keys() - ever_trained(policy, layers, where.num_steps) - layers.own


def _policy(where: Any) -> Any:
    # a prospect has no console yet, and what a policy says is said where the run's own is built
    quiet = SimpleNamespace(**{**vars(where), "console": Console(quiet=True)})
    return where.config.freeze_policy.build(quiet)

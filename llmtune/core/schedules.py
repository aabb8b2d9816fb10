"""Schedules: pure functions of the optimizer step, for learning rates and for weights of objectives."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Shape = Callable[[float, "Schedule"], float]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A factor in [0, 1] for each optimizer step.

    It rises linearly during `warmup_steps`, then follows `shape` down to `floor` at `num_steps`.
    Step `s` (counted from 0) is the s-th update; the first update already moves (factor 1/warmup_steps, not 0).
    """

    shape: str
    num_steps: int
    warmup_steps: int = 0
    floor: float = 0.0
    """lowest factor, as a share of the peak"""
    power: float = 1.0
    """exponent of `polynomial`"""
    decay_share: float = 0.2
    """share of all steps in which `wsd` falls (warm-up, stable, decay; arXiv 2404.06395)"""
    cycles: int = 2
    """falls of `cosine_restarts`"""

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        return self.floor + (1 - self.floor) * SHAPES[self.shape](min(1.0, progress), self)


def _wsd(progress: float, schedule: Schedule) -> float:
    # the fall is a share of all steps, however many of them are warm-up; it waits for the end of that
    after_warmup = max(1, schedule.num_steps - schedule.warmup_steps)
    falling = min(1.0, schedule.decay_share * schedule.num_steps / after_warmup)
    return 1.0 if progress <= 1 - falling else (1 - progress) / max(falling, 1e-9)


def _inverse_sqrt(progress: float, schedule: Schedule) -> float:
    # Vaswani et al. 2017, equation 3, written for steps after the warm-up
    steps_after = progress * max(1, schedule.num_steps - schedule.warmup_steps)
    scale = max(1, schedule.warmup_steps)
    return math.sqrt(scale / (scale + steps_after))


def _cosine_restarts(progress: float, schedule: Schedule) -> float:
    # warm restarts (SGDR, arXiv 1608.03983), all cycles of one length; the run ends low and not at a restart
    inside = 1.0 if progress >= 1 else progress * schedule.cycles % 1
    return (1 + math.cos(math.pi * inside)) / 2


SHAPES: dict[str, Shape] = {
    "constant": lambda progress, schedule: 1.0,
    "linear": lambda progress, schedule: 1 - progress,
    "cosine": lambda progress, schedule: (1 + math.cos(math.pi * progress)) / 2,
    "cosine_restarts": _cosine_restarts,
    "polynomial": lambda progress, schedule: (1 - progress) ** schedule.power,
    "inverse_sqrt": _inverse_sqrt,
    "wsd": _wsd,
}


def lr_schedule(settings: Any, num_steps: int) -> Schedule:
    """The schedule that an optimizer's settings ask for; `warmup` below 1 is a share of `num_steps`."""
    warmup = settings.warmup
    return Schedule(
        shape=settings.schedule,
        num_steps=num_steps,
        warmup_steps=int(warmup) if warmup >= 1 else round(warmup * num_steps),
        floor=settings.min_lr_share,
        power=settings.power,
        decay_share=settings.decay_share,
        cycles=settings.cycles,
    )


def staged_lr_schedule(
    settings: Any, num_steps: int, stages: Sequence[tuple[int, float]] = ((0, 1.0),)
) -> Callable[[int], float]:
    """Factor of the peak learning rate at a step of a run in `stages`, each (first step, factor).

    Every stage has the schedule of a run of its own, warm-up and all, times its factor: what begins to train late would
    else begin with what the decay has left of the rate.
    """
    stages = [stage for stage in stages if stage[0] < num_steps]
    starts = [start for start, _ in stages]
    schedules = [lr_schedule(settings, end - start) for start, end in zip(starts, [*starts[1:], num_steps])]

    def factor_at(step: int) -> float:
        number = bisect_right(starts, step) - 1
        return stages[number][1] * schedules[number](step - starts[number])

    return factor_at


def weight_points(value: float | str) -> list[tuple[float, float]]:
    """(share of the run, weight) of a number or of text such as "0:1, 0.5:0.2", in rising order.

    Raises:
        ValueError: what is wrong with it.
    """
    if not isinstance(value, str):
        return [(0.0, float(value))]
    points = []
    for piece in value.split(","):
        share, colon, height = piece.partition(":")
        try:
            points.append((float(share), float(height)) if colon else (0.0, float(share)))
        except ValueError:
            raise ValueError(f"has {piece.strip()!r}, which is no pair of numbers") from None
    shares = [share for share, _ in points]
    if any(not 0 <= share <= 1 for share in shares) or sorted(set(shares)) != shares:
        raise ValueError("must have rising shares from 0 to 1")
    return points


@dataclass(frozen=True)
class WeightSchedule:
    """The weight of an objective as a function of the step: linear between its points, level before and after."""

    points: list[tuple[float, float]]
    """(share of the run, weight), rising"""
    num_steps: int

    @property
    def changes(self) -> bool:
        return len({height for _, height in self.points}) > 1

    def __call__(self, step: int) -> float:
        share = step / max(1, self.num_steps)
        for (left, low), (right, high) in itertools.pairwise(self.points):
            if share <= left:
                return low
            if share < right:
                return low + (high - low) * (share - left) / (right - left)
        return self.points[-1][1]


def weight_schedule(value: float | str, num_steps: int) -> WeightSchedule:
    """Of a number, or of text such as "0:1, 0.5:0.2" (see weight_points)."""
    return WeightSchedule(weight_points(value), num_steps)

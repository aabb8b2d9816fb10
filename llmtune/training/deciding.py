"""Which number says what weights are the best so far: the task's own metric, or the mean of those of all tasks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

MEAN = "mean_score"


@dataclass(frozen=True)
class Deciding:
    own: str
    """the metric of the run's task"""
    mode: str
    """"max" or "min": of all metrics that are looked at"""
    others: Mapping[str, str] = field(default_factory=dict)
    """feed -> metric of the tasks beside it that are scored"""
    by_mean: bool = False

    @property
    def metric(self) -> str:
        return MEAN if self.by_mean else self.own

    @property
    def named(self) -> dict[str, str]:
        """`task`, and the other tasks by name -> metric."""
        return {"task": self.own, **{feed.rpartition("/")[2]: metric for feed, metric in self.others.items()}}

    def score(self, scores: Mapping[str, float], beside: Mapping[str, Mapping[str, float]]) -> float | None:
        """The number itself; None where a score is not there or not defined."""
        others = self.others if self.by_mean else {}
        found = [scores.get(self.own), *(beside.get(feed, {}).get(name) for feed, name in others.items())]
        known = [value for value in found if value is not None and math.isfinite(value)]
        return statistics.fmean(known) if len(known) == len(found) else None

    def told(self, scores: Mapping[str, float], beside: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """The task's scores, and the mean where that decides."""
        mean = self.score(scores, beside) if self.by_mean else None
        return dict(scores) if mean is None else {**scores, MEAN: mean}

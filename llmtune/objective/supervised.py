"""The task's own loss on the clean view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmtune.core.parts import Parts
from llmtune.core.protocols import Views
from llmtune.core.ranges import weight
from llmtune.core.schedules import weight_schedule
from llmtune.core.types import Batch, Loss


@dataclass(frozen=True, kw_only=True)
class Supervised:
    name: str
    weight: float | str

    def __post_init__(self) -> None:
        weight("weight", self.weight)

    def build(self, parts: Parts) -> SupervisedLoss:
        return SupervisedLoss(weight_schedule(self.weight, parts.num_steps), parts.task)


class SupervisedLoss:
    name = "supervised"
    feed = "task"

    def __init__(self, weight: Callable[[int], float], task: Any):
        self.weight = weight
        self.task = task

    def count(self, batch: Batch) -> float:
        return self.task.count(batch.targets)

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        return self.task.loss(trunk.logits("clean", batch), batch.targets)

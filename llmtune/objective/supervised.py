"""The task's own loss on the clean view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmtune.core.parts import Parts
from llmtune.core.protocols import Views
from llmtune.core.ranges import at_least
from llmtune.core.types import Batch, Loss


@dataclass(frozen=True, kw_only=True)
class Supervised:
    name: str
    weight: float

    def __post_init__(self) -> None:
        at_least("weight", self.weight, 0)

    def build(self, parts: Parts) -> SupervisedLoss:
        return SupervisedLoss(self.weight, parts.task)


class SupervisedLoss:
    name = "supervised"
    views = ("clean",)

    def __init__(self, weight: float, task: Any):
        self._weight = weight
        self.task = task

    def weight(self, step: int) -> float:
        return self._weight

    def count(self, batch: Batch) -> float:
        return self.task.count(batch.targets)

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        return self.task.loss(trunk.logits("clean", batch), batch.targets)

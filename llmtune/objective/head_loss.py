"""The loss of a task beside the run's, by a head of its own on the shared backbone."""

from __future__ import annotations

from typing import Any

from torch import nn

from llmtune.core.protocols import Views
from llmtune.core.schedules import WeightSchedule
from llmtune.core.types import Batch, Loss
from llmtune.model.outputs import logits_of
from llmtune.model.task_head import task_head


class HeadLoss(nn.Module):
    """An objective on rows of its own; `scored_by` is the model and the task for its validation rows."""

    def __init__(self, name: str, weight: WeightSchedule, network: Any, task: Any, *, seed: int):
        super().__init__()
        self.name = self.feed = name
        self.weight = weight
        self.task = task
        self.model = task_head(network, task, seed=seed)

    @property
    def scored_by(self) -> tuple[nn.Module, Any]:
        return self.model, self.task

    def count(self, batch: Batch) -> float:
        return self.task.count(batch.targets)

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        return self.task.loss(logits_of(trunk.through(self.model, "clean", batch)), batch.targets)

"""A term of the loss over the task's own items; what differs between such terms is how their sum comes about."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmtune.core.protocols import Views
from llmtune.core.types import Batch, Loss

if TYPE_CHECKING:
    import torch

Total = Callable[[Views, Batch], "torch.Tensor"]
"""the sum of a loss over the items that the task counts in a batch: a scalar"""


class TaskTerm:
    """An objective on the task's rows whose `count` is the task's own, so that class weights hold for it too."""

    feed = "task"

    def __init__(self, name: str, weight: Callable[[int], float], task: Any, total: Total):
        self.name = name
        self.weight = weight
        self.task = task
        self.total = total

    def count(self, batch: Batch) -> float:
        return self.task.count(batch.targets)

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        import torch

        total = self.total(trunk, batch)
        return Loss(total, torch.tensor(self.count(batch), device=total.device))

"""The task's own loss on the clean view."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.core.parts import Parts
from llmtune.core.protocols import Views
from llmtune.core.ranges import weight
from llmtune.core.schedules import weight_schedule
from llmtune.core.types import Batch, Loss

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Supervised:
    name: str
    weight: float | str

    def __post_init__(self) -> None:
        weight("weight", self.weight)

    def build(self, parts: Parts) -> SupervisedLoss:
        return SupervisedLoss(weight_schedule(self.weight, parts.num_steps), parts.task)


class SupervisedLoss:
    """`task.loss` of what the model makes of a row; of a whole step where the task compares rows (`task.pooled`)."""

    name = "supervised"
    feed = "task"

    def __init__(self, weight: Callable[[int], float], task: Any):
        self.weight = weight
        self.task = task
        self.pooled: bool = getattr(task, "pooled", False)
        self.views: tuple[str, ...] = getattr(task, "views", ("clean",))

    def prepare(self, batch: Batch) -> None:
        """The other views that the task compares: the same inputs under another name, whose dropout is its own."""
        for view in self.views[1:]:
            batch.views[view] = batch.views["clean"]

    def count(self, batch: Batch) -> float:
        return self.task.count(batch.targets)

    def represent(self, trunk: Views, batch: Batch) -> torch.Tensor:
        import torch

        if len(self.views) == 1:
            return trunk.logits("clean", batch)
        return torch.cat([trunk.logits(view, batch) for view in self.views])

    def keys(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {name: values.cpu() for name, values in batch.targets.items()}

    def compare(self, items_RD: torch.Tensor, keys: Mapping[str, torch.Tensor]) -> Loss:
        return self.task.loss(items_RD, keys)

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        thrifty = self.task.loss_in_pieces(trunk, batch) if hasattr(self.task, "loss_in_pieces") else None
        return self.task.loss(self.represent(trunk, batch), batch.targets) if thrifty is None else thrifty

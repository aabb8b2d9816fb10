"""The loss of a task beside the run's, by a head of its own on the shared backbone.

Legend: R items that are compared, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from llmtune.core.protocols import Views
from llmtune.core.schedules import WeightSchedule
from llmtune.core.types import Batch, Loss
from llmtune.model.outputs import logits_of
from llmtune.model.task_head import task_head
from llmtune.objective.supervised import SupervisedLoss


class HeadLoss(nn.Module):
    """What `supervised` is to the run's task, on rows of its own; `scored_by` is the model and the task for its
    validation rows."""

    def __init__(
        self, name: str, weight: WeightSchedule, network: Any, task: Any, *, seed: int, source: Any = None
    ):
        super().__init__()
        self.name = self.feed = name
        self.weight = weight
        self.task = task
        self.model = task_head(network, task, seed=seed, source=source)
        self.own = SupervisedLoss(weight, task)
        self.pooled = self.own.pooled

    @property
    def scored_by(self) -> tuple[nn.Module, Any]:
        return self.model, self.task

    def prepare(self, batch: Batch) -> None:
        self.own.prepare(batch)

    def count(self, batch: Batch) -> float:
        return self.own.count(batch)

    def represent(self, trunk: Views, batch: Batch) -> torch.Tensor:
        return self.own.represent(Through(trunk, self.model), batch)

    def keys(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self.own.keys(batch)

    def compare(self, items_RD: torch.Tensor, keys: Mapping[str, torch.Tensor]) -> Loss:
        return self.own.compare(items_RD, keys)

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        return self.own.loss(Through(trunk, self.model), batch)


class Through:
    """The trunk, as it looks to a task whose head is `model`."""

    def __init__(self, trunk: Any, model: nn.Module):
        self.trunk, self.model = trunk, model

    def logits(self, view: str, batch: Batch) -> torch.Tensor:
        return logits_of(self.trunk.through(self.model, view, batch))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trunk, name)

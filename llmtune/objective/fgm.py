"""Adversarial training with the fast gradient method (Miyato et al., arXiv 1605.07725)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from llmtune.core.parts import Parts
from llmtune.core.protocols import Views
from llmtune.core.ranges import positive, weight
from llmtune.core.schedules import weight_schedule
from llmtune.core.types import Batch
from llmtune.objective.task_term import TaskTerm

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Fgm:
    name: str
    weight: float | str
    epsilon: float
    perturbs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        positive("epsilon", self.epsilon)

    def build(self, parts: Parts) -> TaskTerm:
        total = functools.partial(total_loss, parts.task, self.epsilon)
        return TaskTerm(self.name, weight_schedule(self.weight, parts.num_steps), parts.task, total)


def total_loss(task: Any, epsilon: float, trunk: Views, batch: Batch) -> torch.Tensor:
    """The task's loss at e + epsilon |e| g / |g|: e a row's word embeddings, g the gradient of its loss there."""
    import torch

    from llmtune.objective.embedding_noise import Changes

    changes = Changes("fgm", trunk, batch)

    def loss(logits_BC: torch.Tensor) -> torch.Tensor:
        return task.loss(logits_BC, batch.targets).total

    moved = changes.climb(torch.zeros_like, loss, steps=1, step_size=epsilon, radius=epsilon)
    return loss(changes.logits(moved))

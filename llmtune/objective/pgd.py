"""Adversarial training with projected gradient ascent (Madry et al., arXiv 1706.06083) on word embeddings."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from llmtune.core.parts import Parts
from llmtune.core.protocols import Views
from llmtune.core.ranges import at_least, positive, weight
from llmtune.core.schedules import weight_schedule
from llmtune.core.types import Batch
from llmtune.objective.task_term import TaskTerm

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Pgd:
    name: str
    weight: float | str
    steps: int
    step_size: float
    radius: float
    perturbs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        at_least("steps", self.steps, 1)
        positive("step_size", self.step_size)
        positive("radius", self.radius)

    def build(self, parts: Parts) -> TaskTerm:
        total = functools.partial(total_loss, parts.task, self)
        return TaskTerm(self.name, weight_schedule(self.weight, parts.num_steps), parts.task, total)


def total_loss(task: Any, settings: Pgd, trunk: Views, batch: Batch) -> torch.Tensor:
    """The task's loss where `steps` steps uphill from a row's word embeddings lead, none of them out of the ball."""
    import torch

    from llmtune.objective.embedding_noise import Changes

    changes = Changes("pgd", trunk, batch)

    def loss(logits_BC: torch.Tensor) -> torch.Tensor:
        return task.loss(logits_BC, batch.targets).total

    length = {"step_size": settings.step_size, "radius": settings.radius}
    return loss(changes.logits(changes.climb(torch.zeros_like, loss, steps=settings.steps, **length)))

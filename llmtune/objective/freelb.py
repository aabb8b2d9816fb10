"""Adversarial training that learns from every step uphill (FreeLB; Zhu et al., arXiv 1909.11764)."""

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
class FreeLb:
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


def total_loss(task: Any, settings: FreeLb, trunk: Views, batch: Batch) -> torch.Tensor:
    """The mean of the task's loss over `steps` points: noise in the ball first, then each a step uphill of the last.

    All graphs are kept for the backward pass, so memory grows with `steps`.
    """
    from llmtune.objective.embedding_noise import Changes, Make, fixed

    changes = Changes("freelb", trunk, batch)
    radius = settings.radius
    point: Make = lambda embedded_BTD: changes.within_ball(embedded_BTD, radius)  # noqa: E731
    totals: list[torch.Tensor] = []
    for number in range(settings.steps):
        logits_BC, at_BTD = changes.searched(point)
        totals.append(task.loss(logits_BC, batch.targets).total)
        if number + 1 < settings.steps:
            uphill_BTD = changes.uphill(totals[-1], logits_BC, at_BTD, keep=True)
            point = fixed(changes.within(at_BTD.detach() + settings.step_size * uphill_BTD, radius))
    return sum(totals[1:], totals[0]) / settings.steps

"""What a small change of the words changes in the answer (SMART's smoothness; Jiang et al., arXiv 1911.03437)."""

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
class Smart:
    name: str
    weight: float | str
    steps: int
    step_size: float
    radius: float
    noise: float
    perturbs: ClassVar[bool] = True
    starts_at_zero: ClassVar[bool] = True

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        at_least("steps", self.steps, 1)
        positive("step_size", self.step_size)
        positive("radius", self.radius)
        positive("noise", self.noise)

    def build(self, parts: Parts) -> TaskTerm:
        total = functools.partial(total_loss, parts.task, self)
        return TaskTerm(self.name, weight_schedule(self.weight, parts.num_steps), parts.task, total)


def total_loss(task: Any, settings: Smart, trunk: Views, batch: Batch) -> torch.Tensor:
    """Sum over rows of the largest divergence found between the logits at e and at e + change.

    Divergence: symmetric KL, or the squared difference of numbers. The search begins at a little noise, since at e
    itself it is flat. Both runs draw the same dropout.
    """
    from llmtune.objective.embedding_noise import Changes

    changes = Changes("smart", trunk, batch, dropout="")
    clean_BC = trunk.logits("clean", batch)
    moved = changes.climb(
        lambda embedded_BTD: changes.within_ball(embedded_BTD, settings.noise),
        lambda logits_BC: task.divergence(clean_BC.detach(), logits_BC, batch.targets).total,
        steps=settings.steps, step_size=settings.step_size, radius=settings.radius,
    )  # fmt: skip
    return task.divergence(clean_BC, changes.logits(moved), batch.targets).total

"""The task's loss on word embeddings with noise (NEFTune; Jain et al., arXiv 2310.05914), in place of `supervised`."""

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
class Neftune:
    name: str
    weight: float | str
    alpha: float
    perturbs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        positive("alpha", self.alpha)

    def build(self, parts: Parts) -> TaskTerm:
        if "supervised" in parts.config.objective:
            parts.console.say("neftune beside supervised: rows go through twice; alone it is the paper's")
        total = functools.partial(total_loss, parts.task, self.alpha)
        return TaskTerm(self.name, weight_schedule(self.weight, parts.num_steps), parts.task, total)


def total_loss(task: Any, alpha: float, trunk: Views, batch: Batch) -> torch.Tensor:
    """The task's loss at e + alpha / sqrt(T D) u: T a row's real tokens, D their width, u uniform from -1 to 1."""
    from llmtune.objective.embedding_noise import Changes

    changes = Changes("neftune", trunk, batch)
    num_B11 = changes.real_BT1.sum(1, keepdim=True)

    def noise(embedded_BTD: torch.Tensor) -> torch.Tensor:
        return changes.uniform(embedded_BTD) * alpha / (num_B11 * embedded_BTD.shape[-1]).sqrt()

    return task.loss(changes.logits(noise), batch.targets).total

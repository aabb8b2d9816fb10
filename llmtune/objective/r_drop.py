"""Two runs of a row with other dropout shall agree (R-Drop; Wu et al., arXiv 2106.14448)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts, Prospect
from llmtune.core.protocols import Views
from llmtune.core.ranges import positive, weight
from llmtune.core.schedules import weight_schedule
from llmtune.core.types import Batch
from llmtune.objective.task_term import TaskTerm

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class RDrop:
    name: str
    weight: float | str
    alpha: float

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        positive("alpha", self.alpha)

    def build(self, parts: Parts) -> TaskTerm:
        total = functools.partial(total_loss, parts.task, self.alpha)
        return TaskTerm(self.name, weight_schedule(self.weight, parts.num_steps), parts.task, total)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError if nothing that trains draws dropout: its two runs would be one."""
        from llmtune.freeze_policy.phases import will_train
        from llmtune.model.modes import draws_dropout

        if not draws_dropout(prospect.network, prospect.layers, will_train(prospect)):
            raise ConfigError(
                Fault("objective.r_drop", "the model has no dropout where it trains "
                      f"(freeze_policy={prospect.config.freeze_policy.name}), so two runs of a row are equal and there "
                      "is nothing to learn from their difference", "",
                      "type model.dropout=0.1, train more of the model, or leave r_drop out")
            )  # fmt: skip


def total_loss(task: Any, alpha: float, trunk: Views, batch: Batch) -> torch.Tensor:
    """L(second run) + alpha (KL(first || second) + KL(second || first)) / 2, summed over the rows.

    With `supervised`, which is L(first run), this is the paper's equation 4. Two sums that share the first run.
    """
    first_BC, second_BC = trunk.logits("clean", batch), trunk.again("clean", batch, "r_drop")
    apart = task.divergence(first_BC, second_BC, batch.targets)
    return task.loss(second_BC, batch.targets).total + alpha * apart.total

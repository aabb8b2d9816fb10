"""Every two rows of a step: cosine 1 if they are of one class, else 0 (SetFit's first stage, arXiv 2209.11055)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts, Prospect
from llmtune.core.protocols import Views
from llmtune.core.ranges import one_of, weight
from llmtune.core.schedules import weight_schedule
from llmtune.core.types import Batch, Loss
from llmtune.model.pooling import POOLINGS
from llmtune.model.similarity import similarities
from llmtune.objective.row_comparison import Representation, refuse_representation


@dataclass(frozen=True, kw_only=True)
class CosinePairs:
    name: str
    weight: float | str
    pooling: str

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        one_of("pooling", self.pooling, POOLINGS)

    def build(self, parts: Parts) -> CosinePairsLoss:
        representation = Representation(
            parts.network, pooling=self.pooling, projection=None, seed=parts.config.seed
        )
        return CosinePairsLoss(weight_schedule(self.weight, parts.num_steps), representation)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError where rows have not one class each, or nothing that is compared trains."""
        refuse_representation(self.name, None, prospect)
        problem = getattr(prospect.task, "problem_type", None)
        if problem != "single_label":
            raise ConfigError(
                Fault("objective.cosine_pairs", f"the rows of task={prospect.config.task.name} "
                      f"({problem or 'no labels'}) have no class to be alike by", "for tasks with one label a row",
                      "type objective=[supervised]")
            )  # fmt: skip


class CosinePairsLoss(nn.Module):
    """Squared error of the cosines of all pairs of a step; likes and others count for half of it each.

    sum over pairs r < s of w_rs (cos(z_r, z_s) - [y_r = y_s])^2, with w such that its mean is 1 over the pairs and
    the sum over likes is that over others. SetFit draws as many pairs of likes as of others to the same end.
    """

    name = "cosine_pairs"
    feed = "task"
    pooled = True

    def __init__(self, weight: Callable[[int], float], representation: Representation):
        super().__init__()
        self.weight = weight
        self.representation = representation

    def represent(self, trunk: Views, batch: Batch) -> torch.Tensor:
        return self.representation(trunk, "clean", batch)

    def keys(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"label": batch.targets["label"].cpu()}

    def compare(self, items_RD: torch.Tensor, keys: Mapping[str, torch.Tensor]) -> Loss:
        label = keys["label"].to(items_RD.device)
        pairs_RR = torch.ones(len(label), len(label), dtype=torch.bool, device=label.device).triu(1)
        likes_N = (label[:, None] == label)[pairs_RR].float()
        apart_N = (similarities(items_RD, items_RD, 1.0)[pairs_RR] - likes_N) ** 2
        num, num_likes = float(len(likes_N)), likes_N.sum()
        if 0 < num_likes < num:
            apart_N = apart_N * torch.where(likes_N > 0, num / (2 * num_likes), num / (2 * (num - num_likes)))
        return Loss(apart_N.sum(), torch.tensor(num, device=items_RD.device))

    def count(self, batch: Batch) -> float:
        num = len(batch.row_ids)
        return num * (num - 1) / 2

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        return self.compare(self.represent(trunk, batch), self.keys(batch))

"""Rows of one class near each other, others far (Khosla et al., arXiv 2004.11362; Gunel et al., arXiv 2011.01403)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts, Prospect
from llmtune.core.protocols import Views
from llmtune.core.ranges import at_least, one_of, positive, weight
from llmtune.core.schedules import weight_schedule
from llmtune.core.types import Batch, Loss
from llmtune.model.pooling import POOLINGS
from llmtune.model.similarity import likes_cross_entropy, similarities
from llmtune.objective.row_comparison import SECOND, Representation, add_second_view, refuse_representation


@dataclass(frozen=True, kw_only=True)
class SupervisedContrastive:
    name: str
    weight: float | str
    temperature: float
    pooling: str
    projection: int | None
    runs: int

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        positive("temperature", self.temperature)
        one_of("pooling", self.pooling, POOLINGS)
        at_least("projection", self.projection, 1)
        one_of("runs", self.runs, (1, 2))

    def build(self, parts: Parts) -> SupervisedContrastiveLoss:
        representation = Representation(
            parts.network, pooling=self.pooling, projection=self.projection, seed=parts.config.seed
        )
        return SupervisedContrastiveLoss(weight_schedule(self.weight, parts.num_steps), self, representation)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError where rows have no classes to be alike by, or nothing that is compared trains."""
        refuse_representation(self.name, self.projection, prospect)
        problem = getattr(prospect.task, "problem_type", None)
        if problem not in ("single_label", "multi_label"):
            raise ConfigError(
                Fault("objective.supervised_contrastive", f"the rows of task={prospect.config.task.name} "
                      f"({problem or 'no labels'}) have no classes to be alike by", "for tasks with one or several "
                      "labels a row", "type objective=[supervised]")
            )  # fmt: skip


class SupervisedContrastiveLoss(nn.Module):
    """The paper's L_out over all rows of a step; rows without another of their class are no anchors and don't count."""

    name = "supervised_contrastive"
    feed = "task"
    pooled = True

    def __init__(self, weight: Callable[[int], float], settings: SupervisedContrastive, representation: Representation):
        super().__init__()
        self.weight = weight
        self.settings = settings
        self.representation = representation

    def prepare(self, batch: Batch) -> None:
        if self.settings.runs == 2:
            add_second_view(batch)

    def represent(self, trunk: Views, batch: Batch) -> torch.Tensor:
        views = ("clean", SECOND)[: self.settings.runs]
        return torch.cat([self.representation(trunk, view, batch) for view in views])

    def keys(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"label": torch.cat([batch.targets["label"].cpu()] * self.settings.runs)}

    def compare(self, items_RD: torch.Tensor, keys: Mapping[str, torch.Tensor]) -> Loss:
        likes_RR = alike(keys["label"].to(items_RD.device))
        others_RR = ~torch.eye(len(items_RD), dtype=torch.bool, device=items_RD.device)
        scores_RR = similarities(items_RD, items_RD, self.settings.temperature)
        return Loss(likes_cross_entropy(scores_RR, likes_RR, others_RR), likes_RR.any(-1).sum().float())

    def count(self, batch: Batch) -> float:
        return float(alike(self.keys(batch)["label"]).any(-1).sum())

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        return self.compare(self.represent(trunk, batch), self.keys(batch))


def alike(label: torch.Tensor) -> torch.Tensor:
    """(R, R): is the other one, not the row itself, of the same class, or has it a label in common?"""
    likes_RR = label[:, None] == label if label.ndim == 1 else label.float() @ label.float().T > 0
    return likes_RR & ~torch.eye(len(label), dtype=torch.bool, device=label.device)

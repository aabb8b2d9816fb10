"""Two sights of a row near each other, far from other rows (InfoNCE, arXiv 1807.03748; SimCSE, arXiv 2104.08821)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from llmtune.core.errors import ConfigError, Fault, did_you_mean
from llmtune.core.parts import FeedWanted, Parts, Prospect
from llmtune.core.protocols import Views
from llmtune.core.ranges import at_least, between, one_of, positive, weight
from llmtune.core.schedules import weight_schedule
from llmtune.core.types import Batch, Loss
from llmtune.freeze_policy.phases import will_train
from llmtune.model.modes import draws_dropout
from llmtune.model.pooling import POOLINGS
from llmtune.model.similarity import ANCHOR, in_batch
from llmtune.objective.language import own_rows, refuse_idle_tokens
from llmtune.objective.row_comparison import Representation, refuse_representation
from llmtune.objective.row_views import SIDE, TEXT, CroppedViews, DropoutViews, PairViews


@dataclass(frozen=True, kw_only=True)
class Contrastive:
    name: str
    weight: float | str
    views: str
    positives: list[str]
    negatives: list[str]
    rows: str | None
    batch_tokens: int | None
    temperature: float
    symmetric: bool
    pooling: str
    projection: int | None
    least_span: float

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        one_of("views", self.views, ("dropout", "spans", "pairs"))
        positive("batch_tokens", self.batch_tokens)
        positive("temperature", self.temperature)
        one_of("pooling", self.pooling, POOLINGS)
        at_least("projection", self.projection, 1)
        between("least_span", self.least_span, 0, 1)
        if self.views == "pairs" and self.rows is not None:
            raise ValueError("rows: a file of plain texts has no pairs; views=pairs reads the task's rows; rows=null")
        if self.views != "pairs" and (self.positives or self.negatives):
            raise ValueError("positives, negatives: classes of pairs; only views=pairs has such")

    def feeds(self, config: Any) -> dict[str, FeedWanted]:
        return own_rows(config, self.name, self.rows, self.batch_tokens)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError where there are no two sights of a row: no pairs, no such classes, no dropout."""
        refuse_idle_tokens(self.name, self.rows, self.batch_tokens)
        where = "objective.contrastive.views"
        refuse_representation(self.name, self.projection, prospect)
        trained, backbone = will_train(prospect), prospect.network.base_model
        if self.views == "dropout" and not draws_dropout(prospect.network, prospect.layers, trained, within=backbone):
            raise ConfigError(
                Fault(where, "dropout, but the backbone has none where it trains: a row would always look the same", "",
                      "type model.dropout=0.1, or objective.contrastive.views=spans")
            )  # fmt: skip
        if self.views == "pairs":
            if "text_pair" not in prospect.splits["train"].column_names:
                raise ConfigError(
                    Fault(where, "pairs, but the rows have one text each", "", "type data.columns.text_pair=COLUMN, or "
                          "objective.contrastive.views=dropout")
                )  # fmt: skip
            self._check_classes(prospect.task)

    def _check_classes(self, task: Any) -> None:
        known = task.labels.names if getattr(task, "problem_type", None) == "single_label" else ()
        given = {"positives": self.positives, "negatives": self.negatives}
        faults = [
            Fault(f"objective.contrastive.{key}", f"no class {name!r}", f"classes: {', '.join(known) or 'none'}",
                  did_you_mean(name, known))
            for key, names in given.items() for name in names if name not in known
        ]  # fmt: skip
        faults += [Fault("objective.contrastive.negatives", f"{name!r} is one of the positives too")
                   for name in self.negatives if name in self.positives]  # fmt: skip
        if faults:
            raise ConfigError(*faults)

    def build(self, parts: Parts) -> ContrastiveLoss:
        representation = Representation(
            parts.network, pooling=self.pooling, projection=self.projection, seed=parts.config.seed
        )
        return ContrastiveLoss(weight_schedule(self.weight, parts.num_steps), self, representation, self._sights(parts))

    def _sights(self, parts: Parts) -> Any:
        if self.views == "dropout":
            return DropoutViews()
        if self.views == "spans":
            return CroppedViews(parts.token_table, self.least_span)
        names = list(parts.task.labels.names) if self.positives or self.negatives else []
        return PairViews(
            parts.splits["train"], parts.token_table, parts.max_tokens,
            positives=[names.index(name) for name in self.positives],
            negatives=[names.index(name) for name in self.negatives],
        )  # fmt: skip


class ContrastiveLoss(nn.Module):
    """-log softmax of a row's cosine with its other sight, among those of all rows of a step; counts rows."""

    name = "contrastive"
    pooled = True

    def __init__(
        self, weight: Callable[[int], float], settings: Contrastive, representation: Representation, sights: Any
    ):
        super().__init__()
        self.weight = weight
        self.feed = "task" if settings.rows is None else settings.name
        self.settings = settings
        self.representation = representation
        self.sights = sights

    def prepare(self, batch: Batch) -> None:
        self.sights.add(batch)

    def represent(self, trunk: Views, batch: Batch) -> torch.Tensor:
        views = [*self.sights.views, *(view for view in (PairViews.negative,) if view in batch.views)]
        return torch.cat([self.representation(trunk, view, batch) for view in views])

    def keys(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {name: batch.targets[name].cpu() for name in (SIDE, TEXT)}

    def compare(self, items_RD: torch.Tensor, keys: Mapping[str, torch.Tensor]) -> Loss:
        side_R, text_R = (keys[name].to(items_RD.device) for name in (SIDE, TEXT))
        total = in_batch(
            items_RD, side_R, text_R, temperature=self.settings.temperature, symmetric=self.settings.symmetric
        )
        return Loss(total, (side_R == ANCHOR).sum().float())

    def count(self, batch: Batch) -> float:
        return float((batch.targets[SIDE] == ANCHOR).sum())

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        return self.compare(self.represent(trunk, batch), self.keys(batch))

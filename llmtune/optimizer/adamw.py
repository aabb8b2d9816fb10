"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmtune.core.parts import Parts
from llmtune.core.ranges import at_least, between, one_of, positive
from llmtune.core.schedules import SHAPES

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class AdamW:
    name: str
    lr: float | str
    weight_decay: float
    betas: list[float]
    eps: float
    layer_decay: float
    schedule: str
    warmup: float
    min_lr_share: float
    power: float
    decay_share: float

    def __post_init__(self) -> None:
        if isinstance(self.lr, str):
            one_of("lr", self.lr, ("auto",))
        else:
            positive("lr", self.lr)
        at_least("weight_decay", self.weight_decay, 0)
        if len(self.betas) != 2:
            raise ValueError(f"betas: {self.betas} are {len(self.betas)} numbers; two are needed")
        for beta in self.betas:
            between("betas", beta, 0, 0.999999)
        positive("eps", self.eps)
        between("layer_decay", self.layer_decay, 0.01, 1)
        one_of("schedule", self.schedule, tuple(SHAPES))
        at_least("warmup", self.warmup, 0)
        between("min_lr_share", self.min_lr_share, 0, 1)
        positive("power", self.power)
        between("decay_share", self.decay_share, 0, 1)

    def build(self, parts: Parts) -> Optimizer:
        from torch.optim import AdamW as TorchAdamW

        from llmtune.model.parameter_groups import parameter_groups

        groups = parameter_groups(
            parts.network, parts.layers, weight_decay=self.weight_decay, layer_decay=self.layer_decay
        )
        return TorchAdamW(groups, lr=parts.peak_lr, betas=(self.betas[0], self.betas[1]), eps=self.eps, fused=True)

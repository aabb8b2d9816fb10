"""Muon for the matrices inside the layers, AdamW for everything else (Liu et al., arXiv 2502.16982)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmtune.core.parts import Parts
from llmtune.core.ranges import at_least, between, positive
from llmtune.optimizer.shared import check_betas, check_common, groups_of, refuse_idle

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from llmtune.core.parts import Prospect


@dataclass(frozen=True, kw_only=True)
class Muon:
    name: str
    lr: float | str
    weight_decay: float
    momentum: float
    nesterov: bool
    iterations: int
    betas: list[float]
    eps: float
    layer_decay: float
    head_lr_factor: float
    lora_plus_ratio: float
    schedule: str
    warmup: float
    min_lr_share: float
    power: float
    decay_share: float
    cycles: int
    auto_lr_factor: ClassVar[float] = 3.0
    """lr=auto: times what the model recommends for AdamW. Muon's steps are scaled to what AdamW's are late in a long
    run, and fine-tuning is the start of one"""

    def __post_init__(self) -> None:
        check_common(self)
        between("momentum", self.momentum, 0, 0.9999)
        at_least("iterations", self.iterations, 1)
        check_betas(self.betas)
        positive("eps", self.eps)

    def check(self, prospect: Prospect) -> None:
        refuse_idle(self, prospect)

    def build(self, parts: Parts) -> Optimizer:
        from llmtune.optimizer.muon_steps import MuonSteps, split_off_matrices

        return MuonSteps(
            split_off_matrices(groups_of(self, parts), parts.layers), lr=parts.peak_lr, momentum=self.momentum,
            nesterov=self.nesterov, iterations=self.iterations, betas=(self.betas[0], self.betas[1]), eps=self.eps,
        )  # fmt: skip

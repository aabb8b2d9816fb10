"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmtune.core.parts import Parts
from llmtune.core.ranges import positive
from llmtune.optimizer.shared import check_betas, check_common, fused_kernels, groups_of, refuse_idle

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from llmtune.core.parts import Prospect


@dataclass(frozen=True, kw_only=True)
class AdamW:
    name: str
    lr: float | str
    weight_decay: float
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
    auto_lr_factor: ClassVar[float] = 1.0
    """lr=auto: times what the model recommends"""

    def __post_init__(self) -> None:
        check_common(self)
        check_betas(self.betas)
        positive("eps", self.eps)

    def check(self, prospect: Prospect) -> None:
        refuse_idle(self, prospect)

    def build(self, parts: Parts) -> Optimizer:
        from torch.optim import AdamW as TorchAdamW

        groups = groups_of(self, parts)
        betas = (self.betas[0], self.betas[1])
        return TorchAdamW(groups, lr=parts.peak_lr, betas=betas, eps=self.eps, fused=fused_kernels(groups))

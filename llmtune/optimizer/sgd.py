"""Stochastic gradient descent with momentum, Nesterov's too (Sutskever et al., ICML 2013)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmtune.core.parts import Parts
from llmtune.core.ranges import between
from llmtune.optimizer.shared import check_common, fused_kernels, groups_of, refuse_idle

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from llmtune.core.parts import Prospect


@dataclass(frozen=True, kw_only=True)
class SGD:
    name: str
    lr: float | str
    weight_decay: float
    momentum: float
    nesterov: bool
    layer_decay: float
    head_lr_factor: float
    lora_plus_ratio: float
    schedule: str
    warmup: float
    min_lr_share: float
    power: float
    decay_share: float
    cycles: int
    auto_lr_factor: ClassVar[float] = 300.0
    """lr=auto: times what the model recommends for AdamW"""

    def __post_init__(self) -> None:
        check_common(self)
        between("momentum", self.momentum, 0, 0.9999)
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: needs momentum, which is 0; type optimizer.momentum=0.9")

    def state_bytes(self, shape: Sequence[int]) -> int:
        """Of a weight's state in a checkpoint."""
        return 4 * math.prod(shape) if self.momentum else 0

    def check(self, prospect: Prospect) -> None:
        refuse_idle(self, prospect)

    def build(self, parts: Parts) -> Optimizer:
        from torch.optim import SGD as TorchSGD

        groups = groups_of(self, parts)
        # torch's fused step takes momentum of all parameters or of none: not of some that began to train later
        fused = None if self.momentum else fused_kernels(groups)
        return TorchSGD(groups, lr=parts.peak_lr, momentum=self.momentum, nesterov=self.nesterov, fused=fused)

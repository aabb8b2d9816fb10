"""Lion: steps of equal size in every weight, by the sign of a momentum (Chen et al., arXiv 2302.06675)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmtune.core.parts import Parts
from llmtune.optimizer.shared import check_betas, check_common, groups_of, refuse_idle

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from llmtune.core.parts import Prospect


@dataclass(frozen=True, kw_only=True)
class Lion:
    name: str
    lr: float | str
    weight_decay: float
    betas: list[float]
    layer_decay: float
    head_lr_factor: float
    lora_plus_ratio: float
    schedule: str
    warmup: float
    min_lr_share: float
    power: float
    decay_share: float
    cycles: int
    auto_lr_factor: ClassVar[float] = 0.3
    """lr=auto: times what the model recommends for AdamW, whose steps are smaller than its lr in most weights"""

    def __post_init__(self) -> None:
        check_common(self)
        check_betas(self.betas)

    def state_bytes(self, shape: Sequence[int]) -> int:
        """Of a weight's state in a checkpoint."""
        return 4 * math.prod(shape)

    def check(self, prospect: Prospect) -> None:
        refuse_idle(self, prospect)

    def build(self, parts: Parts) -> Optimizer:
        from llmtune.optimizer.lion_steps import LionSteps

        return LionSteps(groups_of(self, parts), lr=parts.peak_lr, betas=(self.betas[0], self.betas[1]))

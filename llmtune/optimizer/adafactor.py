"""Adafactor: second moments of a matrix kept as one row and one column (Shazeer and Stern, arXiv 1804.04235).

From transformers, not torch: torch's multiplies every learning rate by the parameter's root mean square and can't
be told not to, which starves what starts at zero (LoRA's B, new biases) and leaves no common scale with AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmtune.core.parts import Parts
from llmtune.core.ranges import between, positive
from llmtune.optimizer.shared import check_common, groups_of, refuse_idle

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from llmtune.core.parts import Prospect


@dataclass(frozen=True, kw_only=True)
class Adafactor:
    name: str
    lr: float | str
    weight_decay: float
    decay_power: float
    momentum: float | None
    clip_threshold: float
    scale_parameter: bool
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
    """lr=auto: times what the model recommends for AdamW"""

    def __post_init__(self) -> None:
        check_common(self)
        between("decay_power", self.decay_power, 0.01, 1)
        between("momentum", self.momentum, 0, 0.9999)
        positive("clip_threshold", self.clip_threshold)

    def state_bytes(self, shape: Sequence[int]) -> int:
        """Of a weight's state in a checkpoint: sums of rows and of columns, where there are such."""
        numbers = math.prod(shape)
        squares = math.prod(shape[:-1]) + math.prod([*shape[:-2], shape[-1]]) if len(shape) > 1 else numbers
        return 4 * (squares + (numbers if self.momentum is not None else 0))

    def check(self, prospect: Prospect) -> None:
        refuse_idle(self, prospect)

    def build(self, parts: Parts) -> Optimizer:
        from transformers.optimization import Adafactor as TransformersAdafactor

        return TransformersAdafactor(
            groups_of(self, parts), lr=parts.peak_lr, decay_rate=-self.decay_power, beta1=self.momentum,
            clip_threshold=self.clip_threshold, scale_parameter=self.scale_parameter, relative_step=False,
        )  # fmt: skip

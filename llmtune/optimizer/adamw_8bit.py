"""AdamW with moments of 8 bits each, by bitsandbytes (Dettmers et al., arXiv 2110.02861)."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmtune.core.errors import Fault
from llmtune.core.parts import Parts
from llmtune.core.ranges import at_least, positive
from llmtune.optimizer.shared import check_betas, check_common, groups_of, refuse_idle

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from llmtune.core.parts import Prospect


@dataclass(frozen=True, kw_only=True)
class AdamW8Bit:
    name: str
    lr: float | str
    weight_decay: float
    betas: list[float]
    eps: float
    smallest_8bit: int
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
        check_betas(self.betas)
        positive("eps", self.eps)
        at_least("smallest_8bit", self.smallest_8bit, 1)

    def state_bytes(self, shape: Sequence[int]) -> int:
        """Of a weight's state in a checkpoint: two moments with a scale for 256 numbers, and tables of 256 values."""
        numbers = math.prod(shape)
        return 8 * numbers if numbers < self.smallest_8bit else 2 * (numbers + 4 * math.ceil(numbers / 256) + 1024)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError where the library or the hardware is missing."""
        from llmtune.hardware.machine import pick_device

        faults = []
        if importlib.util.find_spec("bitsandbytes") is None:
            faults.append(
                Fault("optimizer=adamw_8bit", "the package bitsandbytes is not installed", "",
                      "type pip install bitsandbytes, or optimizer=adamw")
            )  # fmt: skip
        device = pick_device(prospect.config.hardware)
        if device != "cuda":
            faults.append(
                Fault("optimizer=adamw_8bit", f"is 40 times AdamW's time on {device}", "needs hardware.device=cuda",
                      "type optimizer=adafactor for small states here, or optimizer=adamw")
            )  # fmt: skip
        refuse_idle(self, prospect, *faults)

    def build(self, parts: Parts) -> Optimizer:
        from bitsandbytes.optim import AdamW8bit as BitsAndBytesAdamW

        return BitsAndBytesAdamW(
            groups_of(self, parts), lr=parts.peak_lr, betas=(self.betas[0], self.betas[1]), eps=self.eps,
            min_8bit_size=self.smallest_8bit,
        )  # fmt: skip

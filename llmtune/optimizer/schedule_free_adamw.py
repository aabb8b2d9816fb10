"""Schedule-free AdamW: an average of the weights does what a falling learning rate does (arXiv 2405.15682)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmtune.core.errors import Fault
from llmtune.core.parts import Parts
from llmtune.core.ranges import between, positive
from llmtune.optimizer.shared import check_betas, check_common, groups_of, refuse_idle

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from llmtune.core.parts import Prospect


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeAdamW:
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
    auto_lr_factor: ClassVar[float] = 2.0
    """lr=auto: times what the model recommends for AdamW with a falling rate; the paper finds 1 to 10"""

    def __post_init__(self) -> None:
        check_common(self)
        check_betas(self.betas)
        between("betas", self.betas[0], 0.1, 0.9999)
        positive("eps", self.eps)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError if another average of the weights is asked for."""
        train = prospect.config.train
        refuse_idle(self, prospect, *(
            Fault(f"train.{name}", "optimizer=schedule_free_adamw keeps an average of its own", "one average",
                  f"type train.{name}=null")
            for name in ("ema", "swa") if getattr(train, name) is not None
        ))  # fmt: skip

    def build(self, parts: Parts) -> Optimizer:
        from llmtune.optimizer.schedule_free_steps import ScheduleFreeSteps

        betas = (self.betas[0], self.betas[1])
        return ScheduleFreeSteps(groups_of(self, parts), lr=parts.peak_lr, betas=betas, eps=self.eps)

"""AdaLoRA: ranks are taken from modules where they matter little (Zhang et al., arXiv 2303.10512)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmtune.adapter.targets import check_targets
from llmtune.adapter.tuner import seed_of
from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts
from llmtune.core.ranges import at_least, between, positive


@dataclass(frozen=True, kw_only=True)
class AdaLora:
    name: str
    rank: int
    target_rank: int
    alpha: float
    dropout: float
    targets: str | list[str]
    hold: float
    settle: float
    every: int
    betas: list[float]
    orthogonality: float
    lr_factor: float

    def __post_init__(self) -> None:
        at_least("target_rank", self.target_rank, 1)
        if self.rank <= self.target_rank:
            raise ValueError(f"rank: {self.rank} leaves nothing to take away; must be above target_rank")
        positive("alpha", self.alpha)
        between("dropout", self.dropout, 0, 0.9)
        check_targets(self.targets)
        between("hold", self.hold, 0, 0.9)
        between("settle", self.settle, 0, 0.9)
        if self.hold + self.settle >= 1:
            raise ValueError(f"hold: {self.hold} and settle={self.settle} leave no steps between; less than 1 together")
        at_least("every", self.every, 1)
        if len(self.betas) != 2:
            raise ValueError(f"betas: {self.betas} are {len(self.betas)} numbers; two are needed")
        for beta in self.betas:
            between("betas", beta, 0.001, 0.999)
        at_least("orthogonality", self.orthogonality, 0)
        positive("lr_factor", self.lr_factor)

    def check(self, prospect: Any) -> None:
        """Raises ConfigError beside an optimizer with weights of its own, or under a freeze policy that keeps some of
        its modules still for good."""
        optimizer = getattr(prospect.config, "optimizer", None)
        if getattr(optimizer, "name", "") == "schedule_free_adamw":
            raise ConfigError(
                Fault("optimizer", "schedule_free_adamw averages points of its own, in which what adalora masks would "
                      "go on", "an optimizer that moves the weights themselves", "type optimizer=adamw")
            )  # fmt: skip
        policy = prospect.config.freeze_policy
        # schedules are still to be built, and say so by neither
        if getattr(policy, "changes", True) or not hasattr(policy, "trainable"):
            return  # ranks are decided once all modules train
        layers = prospect.layers
        ranked = {name for name in layers.adapters & layers.everything if "lora_" in name}
        still = ranked - policy.trainable(layers, 0)
        if still:
            places = ", ".join(sorted({layers.places[name] for name in still}))
            raise ConfigError(
                Fault("freeze_policy", f"{policy.name} keeps the adapters of {places} still, while adalora moves ranks "
                      "between all that there are", "", "freeze_policy=none, adapter=lora, or other adapter.targets")
            )  # fmt: skip

    def build(self, parts: Parts | None) -> Any:
        from llmtune.adapter.rank_allocation import AllocatingTuner

        return AllocatingTuner(self, seed_of(parts), 1 if parts is None else parts.num_steps)

"""The norms (scales and shifts) and the head train: few numbers in every layer (Qi et al., arXiv 2211.08682)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts
from llmtune.core.ranges import positive
from llmtune.freeze_policy.choosing import refuse_adapter


@dataclass(frozen=True, kw_only=True)
class NormsOnly:
    name: str
    lr_factor: float
    changes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive("lr_factor", self.lr_factor)

    def build(self, parts: Parts) -> NormsOnly:
        return self

    def check(self, prospect: Any) -> None:
        """Raises ConfigError if there is an adapter, or if the backbone has no norms."""
        refuse_adapter(prospect, self.name, "norms")
        if "norm" not in prospect.layers.kinds.values():
            fault = Fault("freeze_policy", "norms_only, but this model has no norms", "", "freeze_policy=none")
            raise ConfigError(fault)

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        norms = {name for name, kind in layers.kinds.items() if kind == "norm"}
        return layers.at("head") | (layers.everything & norms)

"""BitFit: the biases of the backbone and the head train (Ben Zaken et al., arXiv 2106.10199)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts
from llmtune.core.ranges import positive
from llmtune.freeze_policy.choosing import refuse_adapter


@dataclass(frozen=True, kw_only=True)
class BiasOnly:
    name: str
    lr_factor: float
    changes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive("lr_factor", self.lr_factor)

    def build(self, parts: Parts) -> BiasOnly:
        return self

    def check(self, prospect: Any) -> None:
        """Raises ConfigError if there is an adapter, or if the backbone has no biases."""
        refuse_adapter(prospect, self.name, "biases")
        if not _biases(prospect.layers):
            raise ConfigError(
                Fault("freeze_policy", f"bias_only, but {prospect.model_config.model_type} models have no biases", "",
                      "freeze_policy=norms_only")
            )  # fmt: skip

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        return layers.at("head") | _biases(layers)


def _biases(layers: Any) -> frozenset[str]:
    """Biases below the head, those of norms too."""
    below = layers.everything - layers.at("head")
    return frozenset(name for name in below if name.endswith("bias") and layers.kinds[name] in ("bias", "norm"))

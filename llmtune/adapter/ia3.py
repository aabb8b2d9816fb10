"""IA3: learnt factors on keys, values and the feed-forward's inner activations (Liu et al., arXiv 2205.05638)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmtune.adapter.targets import check_targets, linear_targets
from llmtune.adapter.tuner import Tuner, has_conv1d, seed_of
from llmtune.core.parts import Parts
from llmtune.core.ranges import positive


@dataclass(frozen=True, kw_only=True)
class Ia3:
    name: str
    targets: str | list[str]
    lr_factor: float

    def __post_init__(self) -> None:
        check_targets(self.targets)
        positive("lr_factor", self.lr_factor)

    def build(self, parts: Parts | None) -> Tuner:
        return Tuner(self._config, seed_of(parts))

    def _config(self, network: Any) -> Any:
        from peft import IA3Config

        from llmtune.model.projections import FEED_FORWARD_OUT, KEY_VALUE, role

        names = linear_targets(network, self.targets, roles=(KEY_VALUE, FEED_FORWARD_OUT))
        inner = [name for name in names if role(name) == FEED_FORWARD_OUT]  # their input is scaled, not their output
        return IA3Config(target_modules=names, feedforward_modules=inner, fan_in_fan_out=has_conv1d(network, names))

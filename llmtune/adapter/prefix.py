"""Prefix tuning: trained keys and values in front of every layer's own (Li and Liang, arXiv 2101.00190)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmtune.adapter.tuner import seed_of
from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts
from llmtune.core.ranges import at_least, one_of, positive


@dataclass(frozen=True, kw_only=True)
class Prefix:
    name: str
    length: int
    init: str
    projection: int | None
    lr_factor: float

    def __post_init__(self) -> None:
        at_least("length", self.length, 1)
        one_of("init", self.init, ("words", "random"))
        at_least("projection", self.projection, 1)
        if self.projection and self.init == "words":
            raise ValueError("init: words, but keys that a projection makes can't be set; init=random")
        positive("lr_factor", self.lr_factor)

    def build(self, parts: Parts | None) -> Any:
        from llmtune.adapter.key_value_prefix import KeyValuePrefix

        return KeyValuePrefix(self, seed_of(parts))

    def check(self, prospect: Any) -> None:
        """Raises ConfigError for an attention that takes no masks of ours."""
        attention = prospect.config.model.attention
        if attention not in ("auto", "eager", "sdpa"):
            raise ConfigError(
                Fault("model.attention", f"{attention} takes no prefix", "auto, sdpa or eager", "model.attention=auto")
            )

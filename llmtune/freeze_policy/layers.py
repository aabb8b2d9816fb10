"""Any choice of layers trains, with the head: "surgical" fine-tuning of some of them (Lee et al., arXiv 2210.11466)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts
from llmtune.freeze_policy.choosing import names_of, parse_layers, refuse_idle_adapter, refuse_unsure_layers


@dataclass(frozen=True, kw_only=True)
class Layers:
    name: str
    layers: int | str | list[int | str]
    embeddings: bool
    changes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        parse_layers("layers", self.layers)

    def build(self, parts: Parts) -> Layers:
        return self

    def check(self, prospect: Any) -> None:
        """Raises ConfigError if the model has no such layer or unknown ones, or if an adapter sits in others alone."""
        refuse_unsure_layers(prospect, self.name)
        num_layers = prospect.layers.num_layers
        missing = [number for number in parse_layers("layers", self.layers) if number >= num_layers]
        if missing:
            raise ConfigError(
                Fault("freeze_policy.layers", f"{', '.join(map(str, missing))}, but the model has {num_layers} layers",
                      f"0 to {num_layers - 1}")
            )  # fmt: skip
        refuse_idle_adapter(prospect, self.name, self.trainable(prospect.layers, 0))

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        """The final norm goes with the topmost layer."""
        numbers = parse_layers("layers", self.layers)
        final = ["final"] if layers.num_layers - 1 in numbers else []
        embeddings = ["embeddings"] if self.embeddings else []
        return layers.trainable_at("head", *final, *embeddings, *names_of(numbers))

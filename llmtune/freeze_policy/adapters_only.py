"""The adapter and the head train: what `none` does where there is an adapter, said by name and refused without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts


@dataclass(frozen=True, kw_only=True)
class AdaptersOnly:
    name: str
    changes: ClassVar[bool] = False

    def build(self, parts: Parts) -> AdaptersOnly:
        return self

    def check(self, prospect: Any) -> None:
        """Raises ConfigError if the model has no adapter."""
        if not prospect.layers.adapters:
            raise ConfigError(
                Fault("freeze_policy", "adapters_only, but there is no adapter (adapter=none)", "",
                      "adapter=lora, or freeze_policy=head_only")
            )  # fmt: skip

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        return layers.everything

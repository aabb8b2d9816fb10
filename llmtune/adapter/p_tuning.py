"""P-tuning: virtual tokens from a small network over trained embeddings (Liu et al., arXiv 2103.10385)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmtune.adapter.tuner import seed_of
from llmtune.core.parts import Parts
from llmtune.core.ranges import at_least, one_of, positive


@dataclass(frozen=True, kw_only=True)
class PTuning:
    name: str
    virtual_tokens: int
    encoder: str
    width: int
    lr_factor: float

    def __post_init__(self) -> None:
        at_least("virtual_tokens", self.virtual_tokens, 1)
        one_of("encoder", self.encoder, ("mlp", "lstm"))
        at_least("width", self.width, 1)
        positive("lr_factor", self.lr_factor)

    def build(self, parts: Parts | None) -> Any:
        from llmtune.adapter.prepended import Prepended

        return Prepended(self, seed_of(parts), self._encoder)

    def _encoder(self, width: int) -> Any:
        from peft import PromptEncoder, PromptEncoderConfig

        return PromptEncoder(PromptEncoderConfig(
            num_virtual_tokens=self.virtual_tokens, token_dim=width, num_transformer_submodules=1,
            encoder_reparameterization_type=self.encoder.upper(), encoder_hidden_size=self.width,
        ))  # fmt: skip

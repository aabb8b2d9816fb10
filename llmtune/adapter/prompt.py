"""Prompt tuning: embeddings of virtual tokens are trained, nothing else (Lester et al., arXiv 2104.08691)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmtune.adapter.tuner import seed_of
from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts
from llmtune.core.ranges import at_least, one_of, positive


@dataclass(frozen=True, kw_only=True)
class Prompt:
    name: str
    virtual_tokens: int
    init: str
    text: str | None
    lr_factor: float

    def __post_init__(self) -> None:
        at_least("virtual_tokens", self.virtual_tokens, 1)
        one_of("init", self.init, ("words", "random", "text"))
        if (self.init == "text") != bool(self.text):
            raise ValueError(f"text: {self.text!r} with init={self.init}; the two go together; init=text")
        positive("lr_factor", self.lr_factor)

    def build(self, parts: Parts | None) -> Any:
        from llmtune.adapter.prepended import Prepended

        tokenizer = None if parts is None else parts.token_table
        return Prepended(self, seed_of(parts), self._encoder, lambda network: self._words(network, tokenizer))

    def check(self, prospect: Any) -> None:
        """Raises ConfigError where `text` has no token."""
        if self.text and not prospect.tokenizer(self.text, add_special_tokens=False)["input_ids"]:
            raise ConfigError(Fault("adapter.text", f"{self.text!r} has no token", "some words"))

    def _encoder(self, width: int) -> Any:
        from peft import PromptEmbedding, PromptTuningConfig

        config = PromptTuningConfig(
            num_virtual_tokens=self.virtual_tokens, token_dim=width, num_transformer_submodules=1
        )
        return PromptEmbedding(config, None)

    def _words(self, network: Any, tokenizer: Any) -> Any:
        """Ids (P,) that the virtual tokens start as: of the text, or drawn from the vocabulary."""
        import torch

        if self.init == "random":
            return None
        if self.init == "words":
            return torch.randint(len(network.get_input_embeddings().weight), (self.virtual_tokens,))
        ids = tokenizer(self.text, add_special_tokens=False)["input_ids"]
        return torch.tensor([ids[place % len(ids)] for place in range(self.virtual_tokens)])

"""Replay: the language-model loss of old text goes on beside the task, so that what was known is kept.

Rows of an old corpus (experience replay), or text that the starting model itself writes (self-synthesised rehearsal,
arXiv 2403.01244; Sun et al., LAMOL, arXiv 1909.03329).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmtune.core.errors import ConfigError, Fault, ModelError
from llmtune.core.parts import FeedWanted, Parts, Prospect
from llmtune.core.ranges import at_least, between, positive, weight
from llmtune.core.schedules import weight_schedule
from llmtune.objective.causal_lm import CausalLmLoss
from llmtune.objective.generated_texts import GeneratedReplay, GeneratedTexts
from llmtune.objective.language import head_of, own_rows, refuse_idle_tokens
from llmtune.objective.masked_lm import MaskedLmLoss

GENERATED = "generated"


@dataclass(frozen=True, kw_only=True)
class Replay:
    name: str
    weight: float | str
    rows: str | None
    batch_tokens: int | None
    mask_share: float
    generated_rows: int
    generated_tokens: int
    temperature: float

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        positive("batch_tokens", self.batch_tokens)
        between("mask_share", self.mask_share, 0.01, 0.9)
        at_least("generated_rows", self.generated_rows, 1)
        at_least("generated_tokens", self.generated_tokens, 4)
        positive("temperature", self.temperature)

    def feeds(self, config: Any) -> dict[str, FeedWanted]:
        """Old rows; those that are generated come when there is a model (`build`)."""
        rows = None if self.rows == GENERATED else self.rows
        return own_rows(config, self.name, rows, self.batch_tokens)

    def check(self, prospect: Prospect) -> None:
        from llmtune.model.language_head import head_is_there, language_kind

        where, model_config = f"objective.{self.name}", prospect.model_config
        kind, family = language_kind(model_config), model_config.model_type
        if kind not in ("masked", "causal"):
            raise ModelError(
                Fault(where, f"{family} models have no head here that reads plain text", "an encoder or a decoder",
                      "type objective=[supervised,l2_sp]")
            )  # fmt: skip
        if self.rows is None:
            raise ConfigError(
                Fault(f"{where}.rows", "not given", "a file of old text, or (decoders) generated",
                      f"type {where}.rows=FILE")
            )  # fmt: skip
        if self.rows != GENERATED:
            return
        if kind != "causal":
            raise ModelError(
                Fault(f"{where}.rows", f"generated, but {prospect.config.model.name} ({family}) does not write text",
                      "a decoder does; for an encoder a file of old text", f"type {where}.rows=FILE")
            )  # fmt: skip
        if not head_is_there(prospect.config.model, model_config):
            raise ModelError(
                Fault(f"{where}.rows", f"generated, but {prospect.config.model.name} holds no trained language-model "
                      "head", "weights with such a head, or a file of old text", f"type {where}.rows=FILE")
            )  # fmt: skip
        refuse_idle_tokens(self.name, None, self.batch_tokens)

    def build(self, parts: Parts) -> Any:
        from llmtune.data.text.masking import Masker
        from llmtune.model.language_head import language_kind

        head = head_of(self.name, parts)
        share = weight_schedule(self.weight, parts.num_steps)
        if language_kind(parts.network.config) == "masked":
            masker = Masker(parts.token_table, mask_share=self.mask_share)
            return MaskedLmLoss(self.name, self.name, share, head, masker)
        if self.rows != GENERATED:
            return CausalLmLoss(self.name, self.name, share, head)
        starts = [ids[0] for ids in parts.splits["train"].with_format(None)["input_ids"][: self.generated_rows]]
        texts = GeneratedTexts(
            parts.network, head, parts.token_table, seed=parts.config.seed, temperature=self.temperature,
            starts=[starts[i % len(starts)] for i in range(self.generated_rows)],
            tokens=min(self.generated_tokens, parts.max_tokens), console=parts.console,
        )  # fmt: skip
        return GeneratedReplay(self.name, share, head, texts)

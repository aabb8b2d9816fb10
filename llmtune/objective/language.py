"""What the objectives of language modelling share: which models they fit, and rows of their own."""

from __future__ import annotations

from typing import Any

from llmtune.core.errors import ConfigError, Fault, ModelError
from llmtune.core.parts import FeedWanted, Prospect

READS = {
    "masked": "reads texts as a whole; objective masked_lm fits it",
    "causal": "reads from left to right; objective causal_lm fits it",
    "sequence": "is an encoder-decoder; objective denoising fits it",
    None: "has no language-model head that could be used here",
}
FITS = {
    "masked": "an encoder (BERT, RoBERTa, ...)",
    "causal": "a decoder (GPT-2, Llama, Qwen, ...)",
    "sequence": "an encoder-decoder (T5)",
}
TYPE = {"masked": "model=minilm", "causal": "model=gpt2", "sequence": "model=tiny_t5"}


def own_rows(config: Any, name: str, rows: str | None, batch_tokens: int | None) -> dict[str, FeedWanted]:
    """The plain texts of a file as the feed of objective `name`; none where it reads the task's rows."""
    from llmtune.data.plain_text import PlainText, plain_rows

    if rows is None:
        return {}
    return {
        name: FeedWanted(
            data=plain_rows(config, rows), reader=PlainText(), batch_tokens=batch_tokens, where=f"objective.{name}.rows"
        )
    }


def refuse_other_kinds(where: str, prospect: Prospect, wanted: str) -> None:
    """ModelError where the model is not of the kind (`masked`, `causal`, `sequence`) that an objective trains."""
    from llmtune.model.language_head import language_kind

    kind = language_kind(prospect.model_config)
    if kind != wanted:
        given = f"{prospect.config.model.name} ({prospect.model_config.model_type}) {READS[kind]}"
        raise ModelError(Fault(where, given, FITS[wanted], f"type {TYPE[wanted]}"))
    if kind == "masked" and prospect.tokenizer.mask_token_id is None:
        raise ModelError(Fault(where, "the tokenizer has no mask token", "one is needed", "type model=minilm"))


def refuse_idle_tokens(name: str, rows: str | None, batch_tokens: int | None) -> None:
    """ConfigError where a number of tokens is set for rows that there are not."""
    if batch_tokens is not None and rows is None:
        raise ConfigError(
            Fault(f"objective.{name}.batch_tokens", f"{batch_tokens}, but it reads the task's rows",
                  "only rows of its own have a size of their own", f"type objective.{name}.batch_tokens=null")
        )  # fmt: skip

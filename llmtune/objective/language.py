"""What the objectives of language modelling share: which models they fit, weight, head, and rows of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, Fault, ModelError
from llmtune.core.parts import FeedWanted, Parts, Prospect
from llmtune.core.ranges import weight
from llmtune.core.schedules import WeightSchedule, weight_schedule

if TYPE_CHECKING:
    from llmtune.model.language_head import LanguageHead

AUTO = "auto"
BESIDE_A_TASK = 0.1
"""A word's loss is several times that of a label, and ten nats where the head starts from nothing: at a weight of 1 it
drowned the task in most of what was measured (docs/benchmarks/hybrid.md, forgetting.md)."""
TEXTS_ALONE = ("language_modeling", "next_sentence")
"""problem types of tasks that learn nothing but texts"""

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
TASKS = {"masked": "masked_lm", "causal": "causal_lm", "sequence": "denoising"}
"""kind of head -> the task that trains one"""
TYPE = {"masked": "model=minilm", "causal": "model=gpt2", "sequence": "model=tiny_t5"}


def check_weight(field: str, value: float | str) -> None:
    """As core.ranges.weight, or `auto`."""
    if value != AUTO:
        weight(field, value)


def share_of(value: float | str, parts: Parts) -> WeightSchedule:
    """The weight of a language-model loss as a function of the step."""
    alone = getattr(parts.task, "problem_type", None) in TEXTS_ALONE
    return weight_schedule((1.0 if alone else BESIDE_A_TASK) if value == AUTO else value, parts.num_steps)


def head_of(name: str, parts: Parts) -> LanguageHead:
    """The language-model head of the run's model; says so where it has to be learnt from nothing."""
    from llmtune.model.language_head import language_kind, load_head

    settings = parts.config.model
    head = load_head(settings, parts.network, seed=parts.config.seed)
    if not head.trained and settings.path is not None:
        task = TASKS[str(language_kind(parts.network.config))]
        parts.console.say(
            f"{name}: {settings.path} holds no language-model head; it starts at random (task={task} trains one first)"
        )
    return head


def own_rows(config: Any, name: str, rows: str | None, batch_tokens: int | None) -> dict[str, FeedWanted]:
    """The plain texts of a file as the feed of objective `name`; none where it reads the task's rows."""
    from llmtune.data.text.plain_text import PlainText, plain_rows

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

"""Denoising: spans of a text are taken out, and the decoder writes what they were (T5, arXiv 1910.10683, 3.1.4).

Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from llmtune.core.errors import Fault, ModelError
from llmtune.core.parts import FeedWanted, Parts, Prospect
from llmtune.core.protocols import Views
from llmtune.core.ranges import at_least, between, positive
from llmtune.core.types import Batch, Loss
from llmtune.data.text.spans import Spans, sentinels_of
from llmtune.objective.language import check_weight, head_of, own_rows, refuse_idle_tokens, refuse_other_kinds, share_of

if TYPE_CHECKING:
    from llmtune.model.language_head import LanguageHead


@dataclass(frozen=True, kw_only=True)
class Denoising:
    name: str
    weight: float | str
    rows: str | None
    batch_tokens: int | None
    noise_share: float
    mean_span: float

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)
        positive("batch_tokens", self.batch_tokens)
        between("noise_share", self.noise_share, 0.01, 0.9)
        at_least("mean_span", self.mean_span, 1)

    def feeds(self, config: Any) -> dict[str, FeedWanted]:
        return own_rows(config, self.name, self.rows, self.batch_tokens)

    def check(self, prospect: Prospect) -> None:
        where = f"objective.{self.name}"
        refuse_other_kinds(where, prospect, "sequence")
        refuse_idle_tokens(self.name, self.rows, self.batch_tokens)
        if not sentinels_of(prospect.tokenizer):
            model = f"{prospect.config.model.name} ({prospect.model_config.model_type})"
            given = f"the tokenizer of {model} has no <extra_id_0>"
            allowed = "a model of T5's kind: such tokens stand for what was taken out"
            raise ModelError(Fault(where, given, allowed, "type model=tiny_t5"))
        network = prospect.network
        if network.base_model is network and not network.can_generate():
            given = f"needs a backbone apart from the task's head, {type(network).__name__} has none"
            raise ModelError(Fault(where, given, "another task, or another model", "leave it out"))

    def build(self, parts: Parts) -> DenoisingLoss:
        head = head_of(self.name, parts)
        spans = Spans(parts.token_table, parts.network.config, self.noise_share, self.mean_span)
        feed = "task" if self.rows is None else self.name
        return DenoisingLoss(self.name, feed, share_of(self.weight, parts), head, spans)


class DenoisingLoss(nn.Module):
    """Cross-entropy of what was taken out, sentinels and end included, per token."""

    def __init__(self, name: str, feed: str, weight: Callable[[int], float], head: LanguageHead, spans: Spans):
        super().__init__()
        self.name, self.feed, self.weight = name, feed, weight
        self.head, self.spans = head, spans

    def prepare(self, batch: Batch) -> None:
        view, targets_BT = self.spans.views(batch.views["clean"], batch.row_seeds, self.name)
        batch.views[self.name], batch.targets[self.name] = view, targets_BT

    def count(self, batch: Batch) -> float:
        return float((batch.targets[self.name] >= 0).sum())

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        from llmtune.model.language_head import logits_loss, word_loss

        output, targets_BT = trunk.output(self.name, batch), batch.targets[self.name]
        if hasattr(output, "last_hidden_state"):
            return word_loss(self.head, output.last_hidden_state, targets_BT)
        return logits_loss(output.logits, targets_BT)  # T5's language model has no backbone apart from its head

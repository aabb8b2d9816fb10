"""Next-word prediction: after each token the next one (causal language modelling), for decoders.

Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from llmtune.core.parts import FeedWanted, Parts, Prospect
from llmtune.core.protocols import Views
from llmtune.core.ranges import positive
from llmtune.core.types import Batch, Loss
from llmtune.objective.language import check_weight, head_of, own_rows, refuse_idle_tokens, refuse_other_kinds, share_of

if TYPE_CHECKING:
    from llmtune.model.language_head import LanguageHead


@dataclass(frozen=True, kw_only=True)
class CausalLm:
    name: str
    weight: float | str
    rows: str | None
    batch_tokens: int | None

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)
        positive("batch_tokens", self.batch_tokens)

    def feeds(self, config: Any) -> dict[str, FeedWanted]:
        return own_rows(config, self.name, self.rows, self.batch_tokens)

    def check(self, prospect: Prospect) -> None:
        refuse_other_kinds(f"objective.{self.name}", prospect, "causal")
        refuse_idle_tokens(self.name, self.rows, self.batch_tokens)

    def build(self, parts: Parts) -> CausalLmLoss:
        head = head_of(self.name, parts)
        feed = "task" if self.rows is None else self.name
        return CausalLmLoss(self.name, feed, share_of(self.weight, parts), head)


class CausalLmLoss(nn.Module):
    """Cross-entropy of each token given those before it, per token; the row's first is given.

    It shares the run of the clean view with the task's own loss, so that it costs the head alone.
    """

    def __init__(self, name: str, feed: str, weight: Callable[[int], float], head: LanguageHead):
        super().__init__()
        self.name, self.feed, self.weight = name, feed, weight
        self.head = head

    def prepare(self, batch: Batch) -> None:
        from llmtune.model.language_head import next_words

        batch.targets[self.name] = next_words(batch.views["clean"])

    def count(self, batch: Batch) -> float:
        return float((batch.targets[self.name] >= 0).sum())

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        from llmtune.model.language_head import word_loss

        hidden_BTD = trunk.output("clean", batch).last_hidden_state
        return word_loss(self.head, hidden_BTD, batch.targets[self.name])

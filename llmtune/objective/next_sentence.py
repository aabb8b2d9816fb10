"""Does the second half of a text belong to the first, or to another text? (BERT's next sentence, arXiv 1810.04805)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.core.parts import FeedWanted, Parts, Prospect
from llmtune.core.ranges import positive, weight
from llmtune.core.schedules import weight_schedule
from llmtune.objective.language import own_rows, refuse_idle_tokens, refuse_other_kinds

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class NextSentence:
    name: str
    weight: float | str
    rows: str | None
    batch_tokens: int | None

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        positive("batch_tokens", self.batch_tokens)

    def feeds(self, config: Any) -> dict[str, FeedWanted]:
        return own_rows(config, self.name, self.rows, self.batch_tokens)

    def check(self, prospect: Prospect) -> None:
        refuse_other_kinds(f"objective.{self.name}", prospect, "masked")
        refuse_idle_tokens(self.name, self.rows, self.batch_tokens)

    def build(self, parts: Parts) -> Any:
        from llmtune.data.text.halves import Halves
        from llmtune.objective.halves import OtherHalves, PairLoss

        feed = "task" if self.rows is None else self.name
        halves = Halves(parts.token_table, parts.max_tokens)
        rows = parts.splits if self.rows is None else parts.feeds[feed].splits
        others = OtherHalves(halves, rows["train"], parts.token_table.pad_token_id)

        def draw(
            row: int, first: np.ndarray, second: np.ndarray, rng: np.random.Generator
        ) -> tuple[np.ndarray, np.ndarray, int]:
            other = others.draw(row, rng) if rng.random() < 0.5 else None
            return (first, second, 0) if other is None else (first, other, 1)

        share = weight_schedule(self.weight, parts.num_steps)
        own = getattr(getattr(parts.network, "cls", None), "seq_relationship", None)  # of a pre-training model
        return PairLoss(self.name, feed, share, halves, parts.network.config.hidden_size, draw, own)

"""One set a step, drawn by its number of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmtune.core.parts import Parts, Prospect
from llmtune.core.seeds import generator
from llmtune.sampling.feeds import OneOfAll, drawn, refuse_one_feed, rows_by_feed, shares_of


@dataclass(frozen=True, kw_only=True)
class Proportional:
    name: str

    def check(self, prospect: Prospect) -> None:
        refuse_one_feed(prospect)

    def shares(self, rows: Mapping[str, int]) -> dict[str, float]:
        return shares_of(rows)

    def build(self, parts: Parts) -> OneOfAll:
        shares = self.shares(rows_by_feed(parts))
        return drawn(shares, parts.num_steps, generator(parts.config.seed, "sampling"))

"""One set a step, drawn by a root of its number of rows (as mT5 draws languages, arXiv 2010.11934)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import at_least
from llmtune.core.seeds import generator
from llmtune.sampling.feeds import OneOfAll, drawn, refuse_one_feed, rows_by_feed, shares_of


@dataclass(frozen=True, kw_only=True)
class Temperature:
    name: str
    temperature: float

    def __post_init__(self) -> None:
        at_least("temperature", self.temperature, 1)

    def check(self, prospect: Prospect) -> None:
        refuse_one_feed(prospect)

    def shares(self, rows: Mapping[str, int]) -> dict[str, float]:
        return shares_of({name: number ** (1 / self.temperature) for name, number in rows.items()})

    def build(self, parts: Parts) -> OneOfAll:
        shares = self.shares(rows_by_feed(parts))
        return drawn(shares, parts.num_steps, generator(parts.config.seed, "sampling"))

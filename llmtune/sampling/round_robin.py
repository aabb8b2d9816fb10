"""One set a step, all in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llmtune.core.parts import Parts, Prospect
from llmtune.sampling.feeds import OneOfAll, even, refuse_one_feed, rows_by_feed


@dataclass(frozen=True, kw_only=True)
class RoundRobin:
    name: str

    def check(self, prospect: Prospect) -> None:
        refuse_one_feed(prospect)

    def shares(self, rows: Mapping[str, int]) -> dict[str, float]:
        return even(rows)

    def build(self, parts: Parts) -> OneOfAll:
        names = list(rows_by_feed(parts))
        return OneOfAll(names, np.arange(parts.num_steps) % len(names))

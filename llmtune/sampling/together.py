"""Every step reads every set: its own order, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmtune.core.parts import Parts
from llmtune.sampling.feeds import rows_by_feed


@dataclass(frozen=True, kw_only=True)
class Together:
    name: str

    def shares(self, rows: Mapping[str, int]) -> dict[str, float]:
        """Share of the steps in which a set is read."""
        return dict.fromkeys(rows, 1.0)

    def build(self, parts: Parts) -> All:
        return All(list(rows_by_feed(parts)))


class All:
    def __init__(self, names: list[str]):
        self.names = names

    def pick(self, step: int) -> dict[str, int]:
        return dict.fromkeys(self.names, step)

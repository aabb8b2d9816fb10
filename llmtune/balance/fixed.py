"""The objectives' own weights, as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmtune.core.parts import Parts


@dataclass(frozen=True, kw_only=True)
class Fixed:
    name: str

    def build(self, parts: Parts) -> AsGiven:
        return AsGiven()


class AsGiven:
    learns = False
    watched: tuple[frozenset[str], ...] = ()

    def weights(self, given: Mapping[str, float]) -> dict[str, float]:
        return dict(given)

"""Words that change places (EDA, arXiv 1901.11196)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmtune.augmentation.words import number, refuse_pieces, units
from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import between


@dataclass(frozen=True, kw_only=True)
class RandomSwap:
    name: str
    share: float
    strength: float

    def __post_init__(self) -> None:
        between("share", self.share, 0, 1)
        between("strength", self.strength, 0, 1)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError: rows are pieces of texts."""
        refuse_pieces(self.name, prospect)

    def build(self, parts: Parts) -> SwapChange:
        return SwapChange(self)


class SwapChange:
    """As many times as a share of the words, any two of them change places."""

    def __init__(self, settings: RandomSwap):
        self.name, self.share, self.strength = settings.name, settings.share, settings.strength

    def text(self, text: str, rng: np.random.Generator) -> str:
        words, gap = units(text)
        if len(words) < 2:
            return text
        for _ in range(number(self.strength, words)):
            one, other = rng.choice(len(words), size=2, replace=False)
            words[one], words[other] = words[other], words[one]
        return gap.join(words)

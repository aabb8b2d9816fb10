"""Words that are left out (EDA, arXiv 1901.11196)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmtune.augmentation.words import refuse_pieces, units
from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import between


@dataclass(frozen=True, kw_only=True)
class RandomDeletion:
    name: str
    share: float
    strength: float

    def __post_init__(self) -> None:
        between("share", self.share, 0, 1)
        between("strength", self.strength, 0, 1)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError: rows are pieces of texts."""
        refuse_pieces(self.name, prospect)

    def build(self, parts: Parts) -> DeletionChange:
        return DeletionChange(self)


class DeletionChange:
    """Each word is left out with the probability `strength`; one stays in any case."""

    def __init__(self, settings: RandomDeletion):
        self.name, self.share, self.strength = settings.name, settings.share, settings.strength

    def text(self, text: str, rng: np.random.Generator) -> str:
        words, gap = units(text)
        draws = rng.random(len(words))
        kept = [word for word, draw in zip(words, draws) if draw >= self.strength]
        return gap.join(kept or words[int(draws.argmax()) :][:1]) if words else text

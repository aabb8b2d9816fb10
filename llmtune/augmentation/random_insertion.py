"""Synonyms of a text's words put in at random places (EDA, arXiv 1901.11196)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmtune.augmentation.lexicon import bare, read_lexicon
from llmtune.augmentation.words import number, refuse_pieces, units
from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import between


@dataclass(frozen=True, kw_only=True)
class RandomInsertion:
    name: str
    share: float
    strength: float
    lexicon: str

    def __post_init__(self) -> None:
        between("share", self.share, 0, 1)
        between("strength", self.strength, 0, 1)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError or DataError: rows are pieces of texts, or the lexicon can't be read."""
        refuse_pieces(self.name, prospect)
        read_lexicon(self.lexicon)

    def build(self, parts: Parts) -> InsertionChange:
        return InsertionChange(self)


class InsertionChange:
    """As many synonyms as a share of the words; texts without a word that the lexicon knows stay as they are."""

    def __init__(self, settings: RandomInsertion):
        self.name, self.share, self.strength = settings.name, settings.share, settings.strength
        self.lexicon = read_lexicon(settings.lexicon)

    def text(self, text: str, rng: np.random.Generator) -> str:
        words, gap = units(text)
        known = [found for word in words if (found := self.lexicon.get(bare(word).lower()))]
        if not known:
            return text
        for _ in range(number(self.strength, words)):
            found = known[rng.integers(len(known))]
            words.insert(int(rng.integers(len(words) + 1)), found[rng.integers(len(found))])
        return gap.join(words)

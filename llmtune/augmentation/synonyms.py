"""Words replaced by synonyms (EDA, arXiv 1901.11196)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmtune.augmentation.lexicon import read_lexicon, synonyms
from llmtune.augmentation.words import number, refuse_pieces, units
from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import between


@dataclass(frozen=True, kw_only=True)
class Synonyms:
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

    def build(self, parts: Parts) -> SynonymChange:
        return SynonymChange(self)


class SynonymChange:
    """A share of a text's words, out of those that the lexicon knows, each replaced by any of its synonyms."""

    def __init__(self, settings: Synonyms):
        self.name, self.share, self.strength = settings.name, settings.share, settings.strength
        self.lexicon = read_lexicon(settings.lexicon)

    def text(self, text: str, rng: np.random.Generator) -> str:
        words, gap = units(text)
        known = {place: found for place, word in enumerate(words) if (found := synonyms(word, self.lexicon))}
        if not known:
            return text
        most = min(number(self.strength, words), len(known))
        for place in rng.choice(sorted(known), size=most, replace=False):
            words[place] = known[place][rng.integers(len(known[place]))]
        return gap.join(words)

"""A random span of a text in the place of the whole (cropping as in COCO-LM, arXiv 2102.08473)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmtune.augmentation.words import refuse_pieces, units
from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import between


@dataclass(frozen=True, kw_only=True)
class Crop:
    name: str
    share: float
    strength: float

    def __post_init__(self) -> None:
        between("share", self.share, 0, 1)
        between("strength", self.strength, 0, 1)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError: rows are pieces of texts."""
        refuse_pieces(self.name, prospect)

    def build(self, parts: Parts) -> CropChange:
        return CropChange(self)


class CropChange:
    """A run of words that leaves out the share `strength` of them, from a random place on."""

    def __init__(self, settings: Crop):
        self.name, self.share, self.strength = settings.name, settings.share, settings.strength

    def text(self, text: str, rng: np.random.Generator) -> str:
        words, gap = units(text)
        length = max(1, round((1 - self.strength) * len(words)))
        start = int(rng.integers(max(1, len(words) - length + 1)))
        return gap.join(words[start : start + length]) if words else text

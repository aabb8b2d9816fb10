"""Tokens of a row that are cut off from the model's sight (token cutoff, arXiv 2009.13818)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import between


@dataclass(frozen=True, kw_only=True)
class TokenCutoff:
    name: str
    share: float
    strength: float

    def __post_init__(self) -> None:
        between("share", self.share, 0, 1)
        between("strength", self.strength, 0, 1)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError: a prompt asks by a mask, and would not know its own among others."""
        if prospect.config.task.kind == "prompt_classification":
            raise ConfigError(
                Fault("augmentation", "token_cutoff puts masks into rows, and a prompt asks by a mask",
                      "changes of texts", "type augmentation=[random_deletion]")
            )  # fmt: skip

    def build(self, parts: Parts) -> CutoffChange:
        return CutoffChange(self, parts.token_table.mask_token_id, parts.token_table.pad_token_id)


class CutoffChange:
    """A share of a row's tokens, special ones apart, becomes the mask token: nothing is said of what stood there.

    The paper makes their embeddings zero. A model without a mask token gets its pad token in their place.
    """

    def __init__(self, settings: TokenCutoff, mask_id: int | None, pad_id: int):
        self.name, self.share, self.strength = settings.name, settings.share, settings.strength
        self.blank_id = pad_id if mask_id is None else mask_id

    def tokens(self, free: np.ndarray, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        places = np.flatnonzero(free)
        changed = ids.copy()
        most = min(len(places), max(1, round(self.strength * len(places))))
        changed[rng.choice(places, size=most, replace=False)] = self.blank_id
        return changed

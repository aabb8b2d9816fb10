"""What changes of texts share: a text as words (or as characters, where it is written without blanks), and refusals."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Prospect

UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
"""kana and Chinese characters"""
UNITS = re.compile(r"[A-Za-z0-9]+|\s+|.", re.DOTALL)
LEAST_UNSPACED = 0.3
"""share of a text's characters from which on it is taken apart by characters"""


def units(text: str) -> tuple[list[str], str]:
    """The words of a text and what stands between them; of Chinese and Japanese the characters, with nothing between.

    Runs of Latin letters and digits stay whole in both.
    """
    if len(UNSPACED.findall(text)) >= LEAST_UNSPACED * max(1, len("".join(text.split()))):
        return [unit for unit in UNITS.findall(text) if not unit.isspace()], ""
    return text.split(), " "


def number(strength: float, words: Sequence[str]) -> int:
    """How many of them a change of this strength touches: at least one."""
    return max(1, round(strength * len(words)))


def refuse_pieces(name: str, prospect: Prospect) -> None:
    """ConfigError where a row is a piece of a text, so that its text can't be encoded anew."""
    if prospect.config.data.on_overlength == "split":
        raise ConfigError(
            Fault("augmentation", f"{name} rewrites texts, while data.on_overlength=split makes several rows of one",
                  "truncate, drop or error", "type data.on_overlength=truncate")
        )  # fmt: skip

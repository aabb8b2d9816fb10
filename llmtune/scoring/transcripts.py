"""How far transcripts are from what was said: word and character error rates, as sums over any number of rows.

The alignments are jiwer's (Levenshtein). Chinese, Japanese and the like, which put no blanks between words, count by
characters: in a word error rate each of them is a word, as in the mixed error rate of code-switched speech.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from llmtune.core.errors import ConfigError, Fault

METRICS = {"wer": "min", "cer": "min", "exact": "max"}
WITHOUT_BLANKS = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f])")
"""characters of scripts that are written without blanks: Chinese characters and kana"""
INSIDE = "'’"
"""marks that are a part of words: don't"""
NOTHING = "∅"
"""stands for no word, where one is missing or too many"""


@dataclass(frozen=True)
class Normaliser:
    """What two texts may differ in and still be the same."""

    ignore_case: bool
    ignore_punctuation: bool

    def __call__(self, text: str) -> str:
        """The text in NFKC with single blanks."""
        text = unicodedata.normalize("NFKC", text)
        if self.ignore_case:
            text = text.lower()
        if self.ignore_punctuation:
            text = "".join(_without_mark(text, place) for place in range(len(text)))
        return " ".join(text.split())

    def words(self, text: str) -> list[str]:
        return WITHOUT_BLANKS.sub(r" \1 ", self(text)).split()


def _without_mark(text: str, place: int) -> str:
    char = text[place]
    if unicodedata.category(char)[0] not in "PS":
        return char
    around = text[max(0, place - 1) : place], text[place + 1 : place + 2]
    return "'" if char in INSIDE and all(one.isalpha() for one in around) else " "


@dataclass
class Edits:
    """Sums over pairs of texts."""

    right: int = 0
    swapped: int = 0
    missing: int = 0
    extra: int = 0

    def __iadd__(self, other: Edits) -> Edits:
        self.right += other.right
        self.swapped += other.swapped
        self.missing += other.missing
        self.extra += other.extra
        return self

    @property
    def wrong(self) -> int:
        return self.swapped + self.missing + self.extra

    @property
    def said(self) -> int:
        """Units of the true texts."""
        return self.right + self.swapped + self.missing

    @property
    def rate(self) -> float:
        """Wrong units for each that was said; above 1 where more were made up."""
        return self.wrong / self.said if self.said else float("nan")


@dataclass
class TranscriptScores:
    """Sums over rows; `add` them in any portions."""

    normaliser: Normaliser
    words: Edits = field(default_factory=Edits)
    chars: Edits = field(default_factory=Edits)
    rows: int = 0
    exact: int = 0
    confused: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(what was said, what was written) -> how often"""

    def add(self, truths: Iterable[str], written: Iterable[str]) -> list[Edits]:
        """Count some rows; the edits in words of each of them."""
        found = []
        for truth, text in zip(truths, written, strict=True):
            true_words, own_words = self.normaliser.words(truth), self.normaliser.words(text)
            edits, chunks = aligned(true_words, own_words)
            self.words += edits
            self.chars += aligned(list(self.normaliser(truth)), list(self.normaliser(text)))[0]
            self.confused.update(chunks)
            self.rows += 1
            self.exact += not edits.wrong
            found.append(edits)
        return found

    def scores(self) -> dict[str, float]:
        """`wer`, `cer`, `exact` (share of rows without a wrong word), and the sums behind them; nothing of no rows."""
        if not self.rows:
            return {}
        return {
            "wer": self.words.rate, "cer": self.chars.rate, "exact": self.exact / self.rows,
            "substitutions": self.words.swapped, "deletions": self.words.missing, "insertions": self.words.extra,
            "words": self.words.said,
        }  # fmt: skip


def aligned(truth: Sequence[str], written: Sequence[str]) -> tuple[Edits, list[tuple[str, str]]]:
    """The fewest edits that make one sequence of units of the other, and the wrong pairs among them."""
    if not truth:  # which jiwer refuses
        return Edits(extra=len(written)), [(NOTHING, unit) for unit in written]
    import jiwer

    # units are told apart by jiwer's words: blanks among characters need a sign of their own
    true_text, own_text = (" ".join(unit if unit != " " else "␠" for unit in units) for units in (truth, written))
    found = jiwer.process_words(true_text, own_text)
    pairs: list[tuple[str, str]] = []
    for chunk in found.alignments[0]:
        if chunk.type != "equal":
            before = list(truth[chunk.ref_start_idx : chunk.ref_end_idx])
            after = list(written[chunk.hyp_start_idx : chunk.hyp_end_idx])
            longer = max(len(before), len(after))
            pairs += zip(before + [NOTHING] * (longer - len(before)), after + [NOTHING] * (longer - len(after)))
    return Edits(found.hits, found.substitutions, found.deletions, found.insertions), pairs


def refuse_without_jiwer(task: str) -> None:
    """Raises ConfigError where the package that counts errors is not there."""
    try:
        import jiwer  # noqa: F401
    except ImportError:
        raise ConfigError(
            Fault("task", f"{task} needs the package jiwer, which is not installed", "",
                  "pip install 'llmtune[speech]'")
        ) from None  # fmt: skip

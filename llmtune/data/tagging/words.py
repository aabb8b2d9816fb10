"""Words of a text for tagging: where they begin and end; and the text that a list of words stands for.

Scripts that are written without blanks (Chinese, Japanese, Thai, ...) are taken by characters.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

Offsets = list[tuple[int, int]]
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9d\U00020000-\U0003ffff"
)
WIDE_MARKS = "\u3000-\u303f\uff00-\uff65\u2014\u2018-\u201d\u2026\u00b7"
"""punctuation of these scripts"""
NO_BLANK = re.compile(f"[{UNSPACED}{WIDE_MARKS}]")
JOINERS = "'’-._/@&+:,#"
"""marks that some files keep inside words"""


@functools.cache
def _marks() -> str:
    """Signs that belong to the letter before them (accents, vowel signs), as ranges of a character class."""
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1 if sys.maxunicode < 0x20000 else 0x20000):
        if unicodedata.category(chr(code))[0] == "M":
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(low)}-{chr(high)}" for low, high in ranges)


@functools.cache
def _pattern(joiners: str) -> re.Pattern[str]:
    letter = rf"(?:(?![{UNSPACED}])[\w{_marks()}])"
    between = f"(?:[{re.escape(joiners)}]{letter}+)*" if joiners else ""
    return re.compile(rf"[{UNSPACED}][{_marks()}]*|{letter}+{between}|\S")


def split_words(text: str, joiners: str = "") -> Offsets:
    """Begin and end of each word: runs of letters and digits, every other mark by itself.

    joiners: marks that stay in a word where they stand between two letters or digits.
    """
    return [found.span() for found in _pattern(joiners).finditer(text)]


def join_words(words: Sequence[str]) -> tuple[str, Offsets]:
    """The text that words stand for, and where each lies in it: blanks between, none beside scripts without them."""
    pieces: list[str] = []
    offsets: Offsets = []
    at = 0
    for i, word in enumerate(words):
        if i and not (NO_BLANK.match(words[i - 1][-1:]) or NO_BLANK.match(word[:1])):
            pieces.append(" ")
            at += 1
        pieces.append(word)
        offsets.append((at, at + len(word)))
        at += len(word)
    return "".join(pieces), offsets


def find_joiners(rows: Iterable[Sequence[str]]) -> str:
    """Marks that these rows of words keep inside words at least as often as they set them apart."""
    inside: Counter[str] = Counter()
    apart: Counter[str] = Counter()
    for words in rows:
        for word in words:
            if len(word) == 1 and word in JOINERS:
                apart[word] += 1
            elif not word.isalnum():
                inside.update(
                    mark for left, mark, right in zip(word, word[1:], word[2:])
                    if mark in JOINERS and left.isalnum() and right.isalnum()
                )  # fmt: skip
    return "".join(mark for mark in JOINERS if inside[mark] and inside[mark] >= apart[mark])

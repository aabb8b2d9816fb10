"""How two answers are compared: SQuAD's rules for words, CMRC's for scripts without spaces; no torch here."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

WITHOUT_SPACES = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff]"
)
"""Han, Kana, Thai, Lao, Burmese and Khmer: a character counts as a word is elsewhere"""
ARTICLES = re.compile(r"\b(a|an|the)\b")
ASCII_MARKS = str.maketrans("", "", string.punctuation)
OTHER_MARKS = "^`~+=|<>$"
"""marks that Unicode calls symbols"""


def is_mark(char: str) -> bool:
    return char in OTHER_MARKS or unicodedata.category(char).startswith("P")


def words(text: str) -> list[str]:
    """Lower case, without ASCII punctuation and English articles, split at blanks: what SQuAD compares."""
    return ARTICLES.sub(" ", text.lower().translate(ASCII_MARKS)).split()


def segments(text: str) -> list[str]:
    """Characters of scripts without spaces one by one, all other words whole; punctuation is left out.

    A mark inside a word joins its parts (`3.5` is `35`), as in CMRC 2018's script.
    """
    kept = "".join(char for char in text.lower() if not is_mark(char))
    return WITHOUT_SPACES.sub(lambda found: f" {found[0]} ", kept).split()


def compared(prediction: str, gold: str) -> tuple[float, float]:
    """Exact match and F1, each from 0 to 1, of one answer against one gold answer; an empty text is "no answer".

    Where either holds a character of a script without spaces, both are cut into `segments` and what they share is their
    longest common run, as in CMRC 2018 (Cui et al., arXiv 1810.07366); else words are compared as bags, as in SQuAD
    (Rajpurkar et al., arXiv 1606.05250).
    """
    by_character = bool(WITHOUT_SPACES.search(prediction) or WITHOUT_SPACES.search(gold))
    cut = segments if by_character else words
    given, wanted = cut(prediction), cut(gold)
    exact = float(given == wanted)
    if not given or not wanted:
        return exact, exact
    shared = longest_run(given, wanted) if by_character else sum((Counter(given) & Counter(wanted)).values())
    return exact, 2 * shared / (len(given) + len(wanted))


def best_of(prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """The best exact match and the best F1 over the gold answers; no gold answers: "no answer" is right."""
    pairs = [compared(prediction, gold) for gold in golds or [""]]
    return max(exact for exact, _ in pairs), max(f1 for _, f1 in pairs)


def longest_run(one: Sequence[str], two: Sequence[str]) -> int:
    """Length of the longest run of neighbours that both have."""
    best, before = 0, [0] * (len(two) + 1)
    for left in one:
        row = [0] * (len(two) + 1)
        for place, right in enumerate(two, 1):
            if left == right:
                row[place] = before[place - 1] + 1
                best = max(best, row[place])
        before = row
    return best

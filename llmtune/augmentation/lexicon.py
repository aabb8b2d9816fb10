"""A lexicon of synonyms: the one that ships (English), or a file of `word<TAB>synonym,synonym`."""

from __future__ import annotations

import functools
import re
from importlib import resources
from pathlib import Path

from llmtune.core.errors import DataError, Fault

WORD = re.compile(r"(\W*)(.*?)(\W*)", re.DOTALL)
"""what stands before a word, the word, and what stands after it"""


@functools.cache
def read_lexicon(given: str) -> dict[str, list[str]]:
    """Word in lower case -> its synonyms. `given`: `english`, or a file.

    Raises:
        DataError: there is no such file, or lines of it are of another form.
    """
    if given == "english":
        text = resources.files("llmtune").joinpath("samples", "synonyms", "english.tsv").read_text(encoding="utf-8")
    else:
        try:
            text = Path(given).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            words = getattr(error, "strerror", None) or "it is not UTF-8"
            raise DataError(
                Fault("augmentation lexicon", f"{given} can't be read: {words}", "english, or a file",
                      "each line: word<TAB>synonym,synonym")
            ) from error  # fmt: skip
    found: dict[str, list[str]] = {}
    wrong = []
    for place, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        word, tab, synonyms = line.partition("\t")
        others = [one.strip() for one in synonyms.split(",") if one.strip()]
        if not tab or not word.strip() or not others:
            wrong.append(place)
        found.setdefault(word.strip().lower(), []).extend(others)
    if wrong or not found:
        lines = f"line {', '.join(map(str, wrong[:5]))} of {given}" if wrong else f"{given} is empty"
        raise DataError(Fault("augmentation lexicon", lines, "each line: word<TAB>synonym,synonym"))
    return found


def synonyms(unit: str, lexicon: dict[str, list[str]]) -> list[str]:
    """What may stand in the place of a word, with its capitals and the marks around it."""
    match = WORD.fullmatch(unit)
    assert match is not None  # every text has this form
    before, word, after = match.groups()
    return [f"{before}{_as_written(word, other)}{after}" for other in lexicon.get(word.lower(), ())]


def bare(unit: str) -> str:
    """The word without marks around it."""
    match = WORD.fullmatch(unit)
    assert match is not None
    return match[2]


def _as_written(word: str, other: str) -> str:
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other[:1].upper() + other[1:] if word[:1].isupper() else other

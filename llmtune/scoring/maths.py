"""The number that a worked answer ends in: what GSM8K (arXiv 2110.14168) marks by ####, else the last one it names."""

from __future__ import annotations

import re

MARK = "####"
NUMBER = re.compile(
    r"(?<![\w.)])[-\u2212]?\s?[$€£¥]?(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"|(?P<more>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?)"
)
"""with a sign, where none of what is calculated stands before it: the 3 in "5-3" is a 3"""


def final_number(text: str) -> str | None:
    """The number as its shortest spelling ("1,000", "$1000.00" and "1000" are one); None where there is none.

    Thousands are set apart by commas and decimals by a point, as in English and Chinese.
    """
    marked = text.partition(MARK)[2]
    found = next(NUMBER.finditer(marked), None) if marked else None
    if found is None:
        found = next(reversed(list(NUMBER.finditer(text))), None)
    if found is None:
        return None
    digits = (found["digits"] or found["more"]).replace(",", "")
    whole, _, decimals = "".join(one if one == "." else str(int(one)) for one in digits).partition(".")
    plain = (whole.lstrip("0") or "0") + f".{decimals.rstrip('0')}".rstrip(".")
    is_negative = found["digits"] is not None and found.group().lstrip()[0] in "-\u2212"
    return f"-{plain}" if is_negative and plain != "0" else plain


def same_number(one: str, other: str) -> bool:
    """Do two answers end in the same number?"""
    found = final_number(one)
    return found is not None and found == final_number(other)

"""The number that a worked answer ends in: what GSM8K (arXiv 2110.14168) marks by ####, else the last one it names."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

MARK = "####"
PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?"
POWER = r"(?:[eE][-+]?\d{1,2}(?![A-Za-z\d_]))?)"
NUMBER = re.compile(
    r"(?:(?<![\w.)/])(?P<minus>[-\u2212]))?\s?[$€£¥]?(?<![\d.)/A-Za-z_])"
    r"(?P<top>\d{1,15})/(?P<bottom>(?=\d*[1-9])\d{1,15})(?![\d/]|[.,]\d)"
    rf"|(?<![\w.)])[-\u2212]?\s?[$€£¥]?(?P<digits>{PLAIN}{POWER}|\.\d+{POWER[:-1]})|(?P<more>{PLAIN}{POWER})"
)
"""with a sign, where none of what is calculated stands before it: the 3 in "5-3" is a 3; a ratio is one number
unless it is a part of a date"""


def final_number(text: str) -> str | None:
    """The number as its shortest spelling ("1,000", "$1000.00", "1e3" and "2000/2" are one); None where there is none.

    Thousands are set apart by commas and decimals by a point, as in English and Chinese. A ratio that no decimals
    say, as 1/3, stays one in its lowest terms.
    """
    marked = text.partition(MARK)[2]
    found = next(NUMBER.finditer(marked), None) if marked else None
    if found is None:
        found = next(reversed(list(NUMBER.finditer(text))), None)
    if found is None:
        return None
    if found["top"] is not None:
        plain, is_negative = _ratio(int(found["top"]), int(found["bottom"])), found["minus"] is not None
        return f"-{plain}" if is_negative and plain != "0" else plain
    digits = (found["digits"] or found["more"]).replace(",", "")
    if "e" in digits.lower():
        digits = format(Decimal(digits), "f")
    plain = _shortest(digits)
    is_negative = found["digits"] is not None and found.group().lstrip()[0] in "-\u2212"
    return f"-{plain}" if is_negative and plain != "0" else plain


def _shortest(digits: str) -> str:
    whole, _, decimals = "".join(one if one == "." else str(int(one)) for one in digits).partition(".")
    return (whole.lstrip("0") or "0") + f".{decimals.rstrip('0')}".rstrip(".")


def _ratio(top: int, bottom: int) -> str:
    ratio, places = Fraction(top, bottom), 0
    while 10**places % ratio.denominator and places < ratio.denominator.bit_length():
        places += 1
    if 10**places % ratio.denominator:
        return str(ratio)
    digits = str(int(ratio * 10**places)).zfill(places + 1)
    return _shortest(f"{digits[: len(digits) - places]}.{digits[len(digits) - places :]}")


def same_number(one: str, other: str) -> bool:
    """Do two answers end in the same number?"""
    found = final_number(one)
    return found is not None and found == final_number(other)

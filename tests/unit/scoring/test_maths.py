"""The number that an answer ends in."""

from __future__ import annotations

import pytest

from llmtune.scoring.maths import final_number, same_number


@pytest.mark.parametrize(("text", "number"), [
    ("3 + 4 = 7\n#### 7", "7"),
    ("#### 1,000", "1000"),
    ("#### $1,234,567.50", "1234567.5"),
    ("#### -$3.00", "-3"),
    ("#### \u22124 apples, so 5 less", "-4"),
    ("so 5-3 is 2", "2"),
    ("the answer is 5-3", "3"),
    ("It costs $18.", "18"),
    ("between 1,2 and 3", "3"),
    ("x=1,0000", "0"),
    ("half: .5", "0.5"),
    ("一共是12个。", "12"),
    ("#### none, of 8", "8"),
    ("####", None),
    ("no idea", None),
    ("007", "7"),
    ("It is 1/2.", "0.5"),
    ("#### 1/2", "0.5"),
    ("#### -3/4 of it", "-0.75"),
    ("一共是1/8个。", "0.125"),
    ("2/6", "1/3"),
    ("10/2", "5"),
    ("0/7", "0"),
    ("10/2 = 5", "5"),
    ("5-1/2", "0.5"),
    ("1/0", "0"),
    ("on 3/4/2020", "2020"),
    ("3/4.5", "4.5"),
    ("1e5", "100000"),
    ("#### 2.5E-3", "0.0025"),
    ("-1e3, so", "-1000"),
    ("1e5个", "100000"),
    ("7 1e5x", "5"),
    ("1000000000000000000000000000000", "1000000000000000000000000000000"),
])  # fmt: skip
def test_the_number_behind_the_mark_or_the_last_one(text: str, number: str | None) -> None:
    assert final_number(text) == number


def test_answers_without_a_number_are_never_the_same() -> None:
    assert same_number("It is 1,000.", "#### 1000.0")
    assert not same_number("none", "none")
    assert not same_number("7", "8")
    assert same_number("1/2", "#### 0.50")
    assert not same_number("1/2", "2")

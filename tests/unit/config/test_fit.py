"""Values fit types without losing anything, or not at all."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llmtune.config.fit import Misfit, expected, fit


@pytest.mark.parametrize(
    ("value", "kind", "fitted"),
    [
        (3, float, 3.0),
        (3.0, int, 3),
        ("1e-5", float, 1e-5),
        ("3", int, 3),
        (3, float | str, 3.0),
        ("3", float | str, "3"),
        (3, int | str, 3),
        ("0", str | int | None, "0"),
        (0, str | int | None, 0),
        (None, float | None, None),
        ("yes", bool, True),
        (False, str | bool, False),
        ([1, 2], list[float], [1.0, 2.0]),
        (["a", 0], str | int | list[str | int] | None, ["a", 0]),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ({"a": [1, {"b": None}]}, dict[str, Any], {"a": [1, {"b": None}]}),
        ({"a": 1}, str | dict[str, float], {"a": 1.0}),
    ],
)
def test_fit_converts_what_loses_nothing(value, kind, fitted):
    assert fit(value, kind) == fitted
    assert type(fit(value, kind)) is type(fitted)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, int), (True, float), (1, bool), ("maybe", bool), (1.5, int), ("1.5", int), ("x", float), (None, int),
        (math.nan, float), (math.inf, float), ("inf", float), (math.inf, float | str), (False, str), (1, str),
        (1e5, str | int), (True, str | int | None), ([1, "x"], list[float]), (["a", False], str | list[str]),
        ({1: 2.0}, dict[str, float]), ([], str), ({}, float),
    ],
)  # fmt: skip
def test_fit_refuses_the_rest(value, kind):
    with pytest.raises(Misfit):
        fit(value, kind)


def test_expected_is_told_in_words():
    assert expected(float | str | None) == "a number, text or null"
    assert expected(list[str | int]) == "a list of text or a whole number"
    assert expected(str | dict[str, float]) == "text or a mapping {name: a number}"

"""Does a value fit a field's type? The few conversions that lose nothing, and the words for what is expected."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any

NoneType = type(None)

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
PLURALS = {int: "whole numbers", float: "numbers"}
TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Misfit(ValueError):
    """The value does not fit; the message says what would."""


def members(kind: Any) -> tuple[Any, ...]:
    """The types of a union; a single type is a union of one."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def fit(value: Any, kind: Any) -> Any:
    """`value` as the type `kind` has it: 3 for a float is 3.0, "1e-5" for a float is a number, 3.0 for an int is 3.

    Raises Misfit. A bool is never a number, and only text is text: YAML's `no` and `1e5` have lost their spelling.
    """
    kinds = members(kind)
    if Any in kinds:
        return value
    for choice in kinds:
        if type(value) is choice and not (choice is float and not math.isfinite(value)):
            return value
    for choice in kinds:
        try:
            return _converted(value, choice, alone=str not in kinds)
        except (Misfit, ValueError, OverflowError):
            continue
    raise Misfit(f"must be {expected(kind)}")


def _converted(value: Any, kind: Any, *, alone: bool) -> Any:
    origin = typing.get_origin(kind) or kind
    if origin is list and isinstance(value, (list, tuple)):
        (item,) = typing.get_args(kind) or (Any,)
        return [fit(element, item) for element in value]
    if origin is dict and isinstance(value, dict):
        of_key, of_value = typing.get_args(kind) or (Any, Any)
        return {fit(key, of_key): fit(element, of_value) for key, element in value.items()}
    if kind is bool and isinstance(value, str) and alone:
        return TRUTHS[value.lower()] if value.lower() in TRUTHS else _refuse()
    readable: Any = (int, float, str) if alone else (int,)  # beside text, only a whole number is surely meant as one
    if kind in (int, float) and isinstance(value, readable) and not isinstance(value, bool):
        return _number(value, kind)
    return _refuse()


def _number(value: int | float | str, kind: Any) -> int | float:
    if kind is int and isinstance(value, str):
        return int(value)
    number = float(value)
    if not math.isfinite(number) or (kind is int and number % 1):
        _refuse()
    return kind(number)


def _refuse() -> typing.NoReturn:
    raise Misfit


def expected(kind: Any) -> str:
    """`a number, text or null`."""
    names = [_name(choice) for choice in members(kind)]
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _name(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is list:
        return f"a list of {PLURALS.get(arguments[0]) or expected(arguments[0])}" if arguments else "a list"
    if origin is dict:
        return f"a mapping {{name: {expected(arguments[1])}}}" if arguments and arguments[1] is not Any else "a mapping"
    if dataclasses.is_dataclass(kind):
        return "a section of keys"
    return WORDS.get(kind, "a value")

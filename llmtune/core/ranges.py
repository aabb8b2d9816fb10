"""Range checks for settings. Each raises ValueError('<field>: <what was given>; <what is allowed>')."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtune.core.errors import did_you_mean
from llmtune.core.schedules import weight_points


def one_of(field: str, value: Any, allowed: Sequence[Any]) -> None:
    # 1 == True in Python, but not for a user
    if not any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in allowed):
        choices = ", ".join(str(choice) for choice in allowed)
        hint = did_you_mean(str(value), [str(choice) for choice in allowed])
        raise ValueError(f"{field}: {value!r} is not known; allowed: {choices}" + (f"; {hint}" if hint else ""))


def positive(field: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{field}: {value!r} is too small; must be above 0")


def at_least(field: str, value: float | None, low: float) -> None:
    if value is not None and not value >= low:
        raise ValueError(f"{field}: {value!r} is too small; must be {low} or more")


def between(field: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise ValueError(f"{field}: {value!r} is out of range; must be from {low} to {high}")


def weight(field: str, value: float | str) -> None:
    """A number from 0 on, or points of a schedule (core.schedules.weight_points)."""
    try:
        points = weight_points(value)
    except ValueError as error:
        raise ValueError(f"{field}: {value!r} {error}; must be a number, or points as '0:1, 0.5:0.2'") from error
    at_least(field, min(height for _, height in points), 0)

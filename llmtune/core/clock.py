"""Units of time in settings: durations ("90m") and periods in steps or epochs (400, "0.5ep")."""

from __future__ import annotations

import math
import re

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(field: str, value: float | str | None) -> float | None:
    """Seconds in `value`: a number of seconds, or a text such as "90s", "30m", "1.5h", "2d"."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value).strip())
    if not match or float(match[1]) <= 0:
        raise ValueError(f"{field}: {value!r} is no duration; give seconds, or a number with s, m, h or d such as 90m")
    return float(match[1]) * UNITS_S[match[2] or "s"]


def parse_period(field: str, value: int | str | None) -> tuple[float, str] | None:
    """`(number, "steps" | "epochs")` of a period: 400, "400", "1ep", "0.5ep"."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ep)?", str(value).strip())
    if not match or float(match[1]) <= 0 or (not match[2] and float(match[1]) % 1):
        raise ValueError(f"{field}: {value!r} is no period; give a number of steps (400) or of epochs (0.5ep)")
    return float(match[1]), "epochs" if match[2] else "steps"


def period_steps(value: int | str | None, steps_per_epoch: int) -> int | None:
    """A period in optimizer steps, at least 1; None stays None (never)."""
    period = parse_period("period", value)
    if period is None:
        return None
    number, unit = period
    return max(1, math.ceil(number * steps_per_epoch) if unit == "epochs" else int(number))

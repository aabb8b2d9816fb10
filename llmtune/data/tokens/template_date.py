"""Chat templates that name the day: all that is made by them names the same one, whenever it is made."""

from __future__ import annotations

import re
from datetime import date

DAY = date(2024, 7, 26)
"""that which Llama's templates name by themselves where no clock is at hand; a run that is repeated or resumed on
another day has the same tokens by it"""
CLOCK = re.compile(r"""\bstrftime_now\(\s*(["'])(.*?)\1\s*\)""")


def dated(template: str) -> str:
    """The jinja text with DAY where it asks for today, so that training, `predict` and whoever loads the model's folder
    read the same tokens."""
    return CLOCK.sub(lambda found: repr(DAY.strftime(found[2])), template)

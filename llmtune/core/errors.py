"""The exceptions of llmtune and the one form in which a user reads them.

    LlmtuneError            1   it failed while running
    ├── UserError           2   the user's mistake: nothing was started, or nothing is lost
    │   ├── ConfigError         a setting
    │   ├── DataError           a file, a column, a row
    │   ├── ModelError          a model, a tokenizer, a checkpoint of somebody else
    │   └── ResumeError         a run folder that can't be gone on with
    ├── Diverged            3   NaN or Inf in training
    └── Stopped            75   a signal; everything is saved

The number is the exit code of the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where it is, what was given, what is allowed, what to type."""

    where: str
    given: str
    allowed: str = ""
    fix: str = ""

    def __str__(self) -> str:
        return "; ".join(part for part in (f"{self.where}: {self.given}", self.allowed, self.fix) if part)


class LlmtuneError(Exception):
    """Anything that a user should read as a message and not as a traceback."""

    exit_code = 1

    def __init__(self, *faults: Fault | str):
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))


class UserError(LlmtuneError):
    exit_code = 2


class ConfigError(UserError):
    pass


class DataError(UserError):
    pass


class ModelError(UserError):
    pass


class ResumeError(UserError):
    pass


class Diverged(LlmtuneError):
    exit_code = 3


class Stopped(LlmtuneError):
    exit_code = 75


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The name in `known` that was most likely meant by `word`, or None.

    difflib alone misses short names (`lrr` for `lr`), so a name that contains the other also counts.
    """
    known = list(known)
    if not word:
        return None
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return close[0]
    inside = [name for name in known if len(name) > 1 and (name in word or word in name)]
    return max(inside, key=len) if inside else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or an empty string when nothing is near."""
    name = nearest(word, known)
    return f"did you mean '{name}'?" if name else ""

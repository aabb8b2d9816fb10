"""What the user names trains or stays: places, names of modules or parameters, regular expressions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts
from llmtune.freeze_policy.choosing import refuse_idle_adapter

NAME = re.compile(r"[\w.]+")
"""letters, digits and dots: whole words of a name; anything else is a regular expression"""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    name: str
    trains: str | list[str] | None
    frozen: str | list[str] | None
    changes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in ("trains", "frozen"):
            for word in _words(getattr(self, field)):
                try:
                    re.compile(word)
                except re.error as error:
                    message = f"{field}: {word!r} is no regular expression ({error}); a place, a name, or one that is"
                    raise ValueError(message) from error
        if not _words(self.trains) and not _words(self.frozen):
            raise ValueError("trains: neither it nor frozen is given; one must be; freeze_policy=none freezes nothing")

    def build(self, parts: Parts) -> Pattern:
        return self

    def check(self, prospect: Any) -> None:
        """Raises ConfigError with each word that matches nothing, and names near it; or if nothing would train."""
        layers = prospect.layers
        faults = [
            Fault(f"freeze_policy.{field}", f"{word!r} matches no parameter", "", _near(layers, word))
            for field in ("trains", "frozen")
            for word in _words(getattr(self, field))
            if not _matching(layers, word)
        ]
        trained = self.trainable(layers, 0)
        if not faults and not trained:
            faults.append(Fault("freeze_policy.frozen", "freezes all that would train", "something must train"))
        if faults:
            raise ConfigError(*faults)
        refuse_idle_adapter(prospect, self.name, trained)

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        given = [_matching(layers, word) for word in _words(self.trains)]
        chosen = frozenset().union(*given) if given else layers.everything
        return chosen.difference(*(_matching(layers, word) for word in _words(self.frozen))) - layers.fixed


def _words(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())


def _matching(layers: Any, word: str) -> frozenset[str]:
    """Parameters at the place `word`, else with a name that holds it as whole words, else that match it anywhere."""
    if word in layers.order:
        return layers.at(word)
    search = re.compile(rf"(^|\.){re.escape(word.strip('.'))}(\.|$)" if NAME.fullmatch(word) else word).search
    return frozenset(name for name, plain in layers.plain.items() if search(plain))


def _near(layers: Any, word: str) -> str:
    """Names that may have been meant: places, and modules or parameters by the end of their path."""
    import difflib

    known = {place: place for place in layers.order}
    for plain in layers.plain.values():
        parts = plain.split(".")
        for end in range(1, len(parts) + 1):
            for start in range(end):
                tail = ".".join(parts[start:end])
                if not tail[0].isdigit():
                    known.setdefault(tail, tail)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    shown = close or ["head", "embeddings", *{plain.split(".")[-2] for plain in sorted(layers.plain.values())}][:8]
    return f"{'near it are' if close else 'there are'} {', '.join(shown)}"

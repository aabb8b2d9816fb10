"""Gold answers of a question as texts and the places where they stand, from every form that files have them in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmtune.data.columns import short
from llmtune.data.forms.values import BadValue

START_NAMES = ("answer_start", "start")
TEXT_NAMES = ("text", "answer_text", "answer")


class Place(NamedTuple):
    """An answer: `context[start:start + len(text)] == text`."""

    text: str
    start: int


@dataclass(frozen=True)
class Gold:
    """The answers of one question, in the order of the file; none: it can't be answered from its context."""

    places: list[Place]
    found: int = 0
    """of those, answers that came without a place and were looked for"""
    repeated: int = 0
    """of those looked for, answers that stand several times in the context; the first place was taken"""

    @property
    def texts(self) -> list[str]:
        return list(dict.fromkeys(place.text for place in self.places))


def read_answers(stored: str, context: str) -> Gold:
    """The answers in a value of `data.columns.answers` as it is kept (JSON).

    Taken are [{"text": ..., "answer_start": ...}, ...], one such object, {"text": [...], "answer_start": [...]}, a
    text, and a list of texts; nothing but empty texts, or an empty list, says that there is no answer.

    Raises:
        BadValue: an answer does not stand where it should, or is none of these.
    """
    places, found, repeated = [], 0, 0
    for text, start in _pairs(json.loads(stored)):
        if not text.strip():
            continue
        if start is None:
            start = context.find(text)
            if start < 0:
                raise BadValue(f"the answer {short(text)} does not stand in the context")
            found, repeated = found + 1, repeated + (context.find(text, start + 1) >= 0)
        elif start < 0 or context[start : start + len(text)] != text:
            raise BadValue(misplaced(text, start, context))
        places.append(Place(text, start))
    return Gold(places, found, repeated)


def check_answers(row: Mapping[str, str | None]) -> None:
    """Look at a row as it is read. Raises BadValue as `read_answers` does."""
    stored, context = row.get("answers"), row.get("context")
    if stored is not None and context is not None:
        read_answers(stored, context)


def misplaced(text: str, start: int, context: str) -> str:
    """What to say of an answer that does not stand at its place: what stands there, and where it stands."""
    there = f", there stands {short(context[start : start + len(text)])}" if 0 <= start < len(context) else ""
    says = f"the answer {short(text)} does not stand at {start}{there}"
    nearest = min(_occurrences(text, context), key=lambda place: abs(place - start), default=None)
    if nearest is None:
        alike = context.casefold().find(text.casefold())
        other = f", but {short(context[alike : alike + len(text)])} stands at {alike}" if alike >= 0 else ""
        return f"{says}; it stands nowhere in the context{other}"
    return f"{says}; the nearest place where it stands is {nearest}"


def _occurrences(text: str, context: str) -> Iterator[int]:
    place = context.find(text)
    while place >= 0:
        yield place
        place = context.find(text, place + 1)


def _pairs(value: Any) -> Iterator[tuple[str, int | None]]:
    """Each answer's text and its place, if it has one. Raises BadValue."""
    if isinstance(value, Mapping):
        texts, starts = _first(value, TEXT_NAMES), _first(value, START_NAMES)
        if not isinstance(texts, list):
            yield _text(texts), _start(starts)
            return
        if starts is not None and (not isinstance(starts, list) or len(starts) != len(texts)):
            raise BadValue(f"{len(texts)} answer(s), but {short(starts)} as their places")
        for text, start in zip(texts, starts if starts is not None else [None] * len(texts)):
            yield _text(text), _start(start)
    elif isinstance(value, list):
        for item in value:
            yield from _pairs(item)
    else:
        yield _text(value), None


def _first(item: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    name = next((name for name in names if name in item), None)
    if name is None and names == TEXT_NAMES:
        raise BadValue(f"an answer has no 'text', it has {', '.join(map(repr, item)) or 'nothing'}")
    return None if name is None else item[name]


def _text(value: Any) -> str:
    if value is None or isinstance(value, (bool, list, dict)):
        raise BadValue(f"an answer is {short(value)} instead of a text")
    return str(value)


def _start(value: Any) -> int | None:
    if value is None:
        return None
    try:
        if isinstance(value, (bool, list, dict)) or int(value) != float(value):
            raise ValueError
    except (TypeError, ValueError):
        raise BadValue(f"the place of an answer is {short(value)} instead of a whole number") from None
    return int(value)

"""Two entities in a text, however a row tells them: by marks in the text, by places, or by what they are called.

All ways end in one: the text with `<e1>...</e1>` around the head and `<e2>...</e2>` around the tail.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

from llmtune.data.forms.values import BadValue

MARKS = ("<e1>", "</e1>", "<e2>", "</e2>")
"""around the head, and around the tail; they become tokens of the model"""
ANY_MARK = re.compile("|".join(map(re.escape, MARKS)))
NAMED = {"head": MARKS[:2], "tail": MARKS[2:]}
PLACE_KEYS = (("start", "end"), ("begin", "end"), ("offset", "end"))
NAME_KEYS = ("text", "name", "word", "mention")
WITHOUT_BLANKS = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")
"""scripts whose words have no blanks between them"""


def check_pair(row: Mapping[str, str | None]) -> None:
    """Raises BadValue where the two entities of a row, as its columns are kept, can't be told."""
    marked_text(row)


def marked_text(row: Mapping[str, str | None]) -> str:
    """The text with its marks.

    Args:
        row: role -> what is kept of it: `text`, or `tokens` (JSON); `head` and `tail` (JSON) unless the text has marks.
    Raises:
        BadValue: a mark or an entity is missing, there more than once, empty, or inside of the other.
    """
    text, tokens = row.get("text"), row.get("tokens")
    given = {name: json.loads(value) for name in NAMED if (value := row.get(name)) is not None}
    if not given:
        joined = joined_tokens(json.loads(tokens))[0] if text is None and tokens is not None else text
        check_marks(joined or "")
        return joined or ""
    missing = next((name for name in NAMED if name not in given), None)
    if missing:
        raise BadValue(f"no {missing}")
    if tokens is not None and _are_places(given):
        words = json.loads(tokens)
        text, begins = joined_tokens(words)
        places = {name: _of_words(name, _place(name, value), words, begins) for name, value in given.items()}
    else:
        text = text if text is not None else joined_tokens(json.loads(tokens or "[]"))[0]
        places = {name: _found(name, value, text) for name, value in given.items()}
    own = ANY_MARK.search(text)
    if own:
        raise BadValue(f"the text has {own[0]} of its own, and head and tail beside it")
    return with_marks(text, places["head"], places["tail"])


def with_marks(text: str, head: tuple[int, int], tail: tuple[int, int]) -> str:
    """Marks put around two places, in characters, the end not included. BadValue: empty ones, or one in the other."""
    for name, (start, end) in (("head", head), ("tail", tail)):
        if not text[start:end].strip():
            raise BadValue(f"the {name} at {start} to {end} is empty")
    if max(head[0], tail[0]) < min(head[1], tail[1]):
        raise BadValue(f"head ({head[0]} to {head[1]}) and tail ({tail[0]} to {tail[1]}) lie over each other")
    places = [(head, NAMED["head"]), (tail, NAMED["tail"])]
    for (start, end), (opening, closing) in sorted(places, reverse=True):
        text = f"{text[:start]}{opening}{text[start:end]}{closing}{text[end:]}"
    return text


def check_marks(text: str) -> None:
    """Raises BadValue unless each mark stands once, in order, around something, and neither pair in the other."""
    for mark in MARKS:
        count = text.count(mark)
        if count != 1:
            raise BadValue(f"no {mark} in the text" if not count else f"{mark} stands {count} times")
    places = {mark: text.index(mark) for mark in MARKS}
    for opening, closing in NAMED.values():
        if places[closing] < places[opening]:
            raise BadValue(f"{closing} stands before {opening}")
        if not ANY_MARK.sub("", text[places[opening] + len(opening) : places[closing]]).strip():
            raise BadValue(f"nothing between {opening} and {closing}")
    if places["<e1>"] < places["</e2>"] and places["<e2>"] < places["</e1>"]:
        raise BadValue("<e1> and <e2> stand in each other")


def unmarked(text: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """The text without marks, and for head and tail what is marked: {text, start, end}, in characters of that."""
    found: dict[str, dict[str, Any]] = {}
    for name, (opening, closing) in NAMED.items():
        start, end = (len(ANY_MARK.sub("", text[: text.index(mark)])) for mark in (opening, closing))
        found[name] = {"text": "", "start": start, "end": end}
    plain = ANY_MARK.sub("", text)
    for entity in found.values():
        entity["text"] = plain[entity["start"] : entity["end"]]
    return plain, found


def joined_tokens(tokens: list[str]) -> tuple[str, list[int]]:
    """Tokens as a text, with blanks between them but for Chinese and its like; and where each begins."""
    gaps = [""] + [
        "" if WITHOUT_BLANKS.match(before[-1:]) and WITHOUT_BLANKS.match(after[:1]) else " "
        for before, after in pairwise(tokens)
    ]
    pieces = [gap + token for gap, token in zip(gaps, tokens)]
    ends = list(accumulate(map(len, pieces)))
    return "".join(pieces), [end - len(token) for end, token in zip(ends, tokens)]


def _are_places(given: Mapping[str, Any]) -> bool:
    return all(_numbers(value) is not None for value in given.values())


def _numbers(value: Any) -> tuple[int, int] | None:
    """Of [start, end], {start, end}, {pos: [start, end]}, [[start, end]] or [name, ..., [[start, end]]]; else None."""
    if isinstance(value, dict):
        if isinstance(value.get("pos"), list):
            return _numbers(value["pos"])
        keys = next((pair for pair in PLACE_KEYS if pair[0] in value and pair[1] in value), None)
        return None if keys is None else _numbers([value[key] for key in keys])
    if not isinstance(value, list) or not value:
        return None
    if len(value) == 2 and all(isinstance(one, int) and not isinstance(one, bool) for one in value):
        return value[0], value[1]
    return _numbers(value[-1]) if isinstance(value[-1], (list, dict)) else None


def _name(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((str(value[key]) for key in NAME_KEYS if isinstance(value.get(key), str)), None)
    if isinstance(value, list):
        return value[0] if value and isinstance(value[0], str) else None
    return value if isinstance(value, str) else None


def _place(name: str, value: Any) -> tuple[int, int]:
    place = _numbers(value)
    assert place is not None  # looked at before
    return place


def _found(name: str, value: Any, text: str) -> tuple[int, int]:
    """The place of an entity in characters. Where a row has its place and its name, both must be of the same."""
    place, called = _numbers(value), _name(value)
    if place is not None:
        start, end = place
        if not 0 <= start < end <= len(text):
            raise BadValue(f"the {name} at {start} to {end} is not within the text, which has {len(text)} characters")
        if called is not None and text[start:end] != called:
            raise BadValue(f"the {name} {called!r} does not stand at {start} to {end}: there is {text[start:end]!r}")
        return start, end
    if not called:
        raise BadValue(f"the {name} is {json.dumps(value, ensure_ascii=False)[:60]}: no text, and no [start, end]")
    count = text.count(called)
    if count != 1:
        many = f"stands {count} times in the text: [start, end] tells which is meant"
        raise BadValue(f"the {name} {called!r} {many if count else 'is not in the text'}")
    return text.index(called), text.index(called) + len(called)


def _of_words(name: str, place: tuple[int, int], words: list[str], begins: list[int]) -> tuple[int, int]:
    """Places in tokens, the end not included, as places in characters of the joined text."""
    start, end = place
    if not 0 <= start < end <= len(words):
        raise BadValue(f"the {name} at {start} to {end} is not within the {len(words)} tokens; the end is not included")
    return begins[start], begins[end - 1] + len(words[end - 1])

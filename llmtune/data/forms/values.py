"""Values of cells as rows keep them: texts as they stand, all else as JSON; what can't be kept says why."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from typing import Any

from llmtune.data.files.tables import Spelled


class BadValue(Exception):
    """A value that makes its row unusable; the message is the reason in the report."""


def as_text(value: Any) -> str:
    """A text as it stands; numbers keep their spelling. BadValue for nothing, lists, objects, undecodable bytes."""
    if value is None:
        raise BadValue("no text")
    if isinstance(value, (list, dict, bool)):
        raise BadValue(f"the text is a {type(value).__name__}")
    text = value if type(value) is str else str(value)
    if not text or text.isspace():
        raise BadValue("empty text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadValue("the text can't be decoded") from None
    if "\0" in text:
        raise BadValue("the text holds a NUL character")
    return text


def _label_word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise BadValue("no label")
    if isinstance(value, (list, dict)):
        raise BadValue(f"the label is a {type(value).__name__}")
    word = str(value).strip()
    if not word:
        raise BadValue("no label")
    try:
        word.encode()
    except UnicodeEncodeError:
        raise BadValue("the label can't be decoded") from None
    return word


def as_label(value: Any) -> str:
    """A label as JSON: a text as the user wrote it (`1`, `1.0`, `no`, `true` stay what they are), or a list of them."""
    if isinstance(value, (list, tuple)):
        return json.dumps([_label_word(one) for one in value], ensure_ascii=False)
    return json.dumps(_label_word(value), ensure_ascii=False)


def as_tokens(value: Any) -> str:
    """A list of tokens as JSON; a text is split at its blanks. BadValue for what is no list of texts, or empty."""
    return _list_of_texts(value.split() if type(value) is str and not _is_json(value) else value)


def as_texts(value: Any) -> str:
    """A list of texts as JSON; a text, or a number, is a list of one. BadValue for what is no list of texts, or empty.

    JSON of a list in a text, as in a field of CSV, is read; "[Music]" and {braces} stay the text that they are.
    """
    items = _parsed(value) if type(value) is str and _is_json(value) else value
    if isinstance(value, str) and not isinstance(items, list):
        items = [str(value)]
    kept = _list_of_texts(items)
    if not any(item.strip() for item in json.loads(kept)):
        raise BadValue("empty text")
    return kept


def as_json(value: Any) -> str:
    """Any value as JSON; a text that is itself JSON of a list or an object, as in a field of CSV, is taken for that."""
    if value is None:
        raise BadValue("no value")
    return _encodable(json.dumps(_parsed(value), ensure_ascii=False))


def as_turns(value: Any) -> str:
    """A text, or the messages of a dialogue, as JSON; a text that is JSON of messages is taken for them."""
    if isinstance(value, str) and not isinstance(value, Spelled):
        parsed = _parsed(value)
        return _encodable(json.dumps(parsed if _are_messages(parsed) else as_text(value), ensure_ascii=False))
    return as_json(value) if isinstance(value, (list, dict)) else json.dumps(as_text(value), ensure_ascii=False)


def _are_messages(value: Any) -> bool:
    """A list of objects with a role and a content; another one may be what an answer looks like."""
    pairs = ({"role", "content"}, {"role", "tool_calls"}, {"from", "value"})
    return isinstance(value, list) and bool(value) and all(
        isinstance(one, dict) and any(pair <= one.keys() for pair in pairs) for one in value
    )


def _list_of_texts(value: Any) -> str:
    items = _parsed(value)
    if not isinstance(items, (list, tuple)):
        raise BadValue("no list" if items is None else f"a {type(items).__name__} instead of a list")
    if not items:
        raise BadValue("the list is empty")
    if any(item is None or isinstance(item, (list, dict, bool)) for item in items):
        raise BadValue("the list holds something else than texts")
    return _encodable(json.dumps([str(item) for item in items], ensure_ascii=False))


def _is_json(text: str) -> bool:
    return text.lstrip()[:1] in ("[", "{") and text.rstrip()[-1:] in ("]", "}")


def _parsed(value: Any) -> Any:
    """A value with its numbers as numbers; JSON in a text, as fields of CSV hold it, is read."""
    if isinstance(value, Spelled):
        return json.loads(value)
    if isinstance(value, str):
        if _is_json(value):
            with contextlib.suppress(ValueError):
                return json.loads(value)
        return value
    if isinstance(value, dict):
        return {key: _parsed(inner) for key, inner in value.items()}
    return [_parsed(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadValue("it can't be decoded") from None
    return text


CONVERTERS: dict[str, Callable[[Any], str]] = {
    "text": as_text, "label": as_label, "tokens": as_tokens, "texts": as_texts, "json": as_json,
    "turns": as_turns,
}  # fmt: skip

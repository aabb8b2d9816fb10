"""Which column holds the text, which the label: what the user named, or what the file leaves no doubt about."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmtune.core.errors import DataError, Fault, nearest
from llmtune.data.tables import Spelled, Table

TRUE, FALSE = {"1", "1.0", "true", "True", "TRUE", "yes"}, {"0", "0.0", "false", "False", "FALSE", "no", ""}
MISSING = object()
Get = Callable[[Any], Any]
"""the value of one column in a row; raises BadValue"""


@dataclass(frozen=True)
class Role:
    """A column that a task asks for."""

    name: str
    """"text", "text_pair", "label", ...: also the key under data.columns"""
    required: bool
    guesses: tuple[str, ...] = ()
    """header names that are taken when the user named none"""
    kind: str = "text"
    """how a value is kept: text (as it stands), label, tokens, texts or json (anything); all but the first as JSON"""
    known_before: bool = True
    """does `predict` have it too? not what is to be found out"""
    unless: str | None = None
    """another role that does in the place of this one"""
    sparse: bool = False
    """may a row be without it? (nothing, an empty text, an empty list: None)"""

    def convert(self, value: Any) -> str | None:
        """A value as it is kept. Raises BadValue."""
        if self.sparse and (value is None or value in ("", [], "[]")):
            return None
        return CONVERTERS[self.kind](value)


def _role(name: str, required: bool, guesses: str, kind: str = "text", known_before: bool = True) -> Role:
    return Role(name, required, tuple(guesses.split()), kind, known_before)


TEXT = _role(
    "text",
    True,
    "text sentence review content document comment tweet utterance query body "
    "sentence1 text1 text_a question1 premise 文本 内容 评论",
)
TEXT_PAIR = _role("text_pair", False, "text_pair sentence2 text2 text_b question2 hypothesis pair")
LABEL = _role(
    "label",
    True,
    "label labels class category categories sentiment score rating stars polarity "
    "intent topic emotion emotions similarity target relation answer_idx gold_label 标签 类别",
    "label",
    known_before=False,
)
TOKENS = _role("tokens", False, "tokens words token form", "tokens")
TAGS = _role("tags", False, "tags ner_tags pos_tags labels tag upos ner", "tokens", known_before=False)
SPANS = _role("spans", False, "spans entities annotations", "json", known_before=False)
QUESTION = _role("question", True, "question query 问题")
CONTEXT = _role("context", True, "context passage paragraph document article text 文章 段落")
ANSWERS = _role("answers", True, "answers answer 答案", "json", known_before=False)
CHOICES = _role("choices", True, "choices options candidates endings 选项", "texts")
HEAD = _role("head", False, "head e1 subject subj h entity_1", "json")
TAIL = _role("tail", False, "tail e2 object obj t entity_2", "json")
NEGATIVE = _role("negative", False, "negative negatives hard_negative hard_negatives", "texts")
GROUP = _role("group", False, "group query_id qid user user_id group_id")


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
    """A list of texts as JSON; a text is a list of one. BadValue for what is no list of texts, or empty."""
    return _list_of_texts([value] if type(value) is str and not _is_json(value) else value)


def as_json(value: Any) -> str:
    """Any value as JSON; a text that is itself JSON of a list or an object, as in a field of CSV, is taken for that."""
    if value is None:
        raise BadValue("no value")
    return _encodable(json.dumps(_parsed(value), ensure_ascii=False))


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
}  # fmt: skip


def _at(row: Any, key: str | int) -> Any:
    """The value at a position, a name, or a dotted path into nested objects and lists; MISSING if there is none."""
    if isinstance(row, list):
        return row[key] if isinstance(key, int) and key < len(row) else MISSING
    if key in row:
        return row[key]
    value: Any = row
    for step in str(key).split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return MISSING
    return value


def _getter(table: Table, role: Role, key: str | int | list[str | int]) -> Get:
    if isinstance(key, list):
        getters = {str(one): _getter(table, role, one) for one in key}
        if role.kind in ("tokens", "texts"):
            return lambda row: [as_text(get(row)) for get in getters.values()]
        return lambda row: [name for name, get in getters.items() if _switched(name, get(row))]
    inside = table.inside(key)

    def get(row: Any) -> Any:
        value = _at(row, inside)
        if value is MISSING and role.sparse:
            return None
        if value is MISSING:
            raise BadValue(f"no {key!r}")
        return value

    return get


def _switched(name: str, value: Any) -> bool:
    word = str(value).strip()
    if word not in TRUE | FALSE:
        raise BadValue(f"column {name!r} is not 0 or 1")
    return word in TRUE


@dataclass(frozen=True)
class Column:
    """Where a role is found in a file."""

    key: str | int | list[str | int]
    """as a user would type it"""
    get: Get


def resolve(table: Table, roles: Sequence[Role], named: dict[str, Any]) -> dict[str, Column]:
    """The columns of each role in `table`. `named` holds what the user set under data.columns (None: to be found).

    DataError with all faults; each shows the columns as they are, an example row, and what to type.
    """
    if table.fixed:  # a folder per class: there is nothing to choose
        named = {}
    faults = []
    keys: dict[str, Any] = {}
    for role in roles:
        given = named.get(role.name)
        if given is not None:
            wrong = [
                fault for key in (given if isinstance(given, list) else [given]) if (fault := _fault(table, role, key))
            ]
            faults += wrong
            if not wrong:
                keys[role.name] = given
    if not faults:
        keys = _guess(table, roles, keys)
        missing = [
            role.name for role in roles if role.required and role.name not in keys and role.unless not in keys
        ]
        if missing:
            faults.append(_which(table, roles, missing))
    if faults:
        raise DataError(*faults)
    return {
        name: Column(key, _getter(table, next(role for role in roles if role.name == name), key))
        for name, key in keys.items()
    }


def _guess(table: Table, roles: Sequence[Role], keys: dict[str, Any]) -> dict[str, Any]:
    """`keys`, and for the roles without one the only column whose name says it, or the clear case of two columns."""
    keys = dict(keys)
    taken = {str(key) for key in keys.values()}
    if table.names is not None:
        found = {
            role.name: [name for name in table.names if name.lower() in role.guesses and name not in taken]
            for role in roles
            if role.name not in keys
        }
        for role, names in found.items():
            if role in names and role not in ("text", "label"):  # texts and labels go by many names
                found[role] = [role]
        return keys | {role: names[0] for role, names in found.items() if len(names) == 1}
    wanted = {role.name for role in roles if role.required}
    if not keys and wanted == {"text"} and table.width == 1:
        return {"text": 0}
    if not keys and wanted == {"text", "label"} and table.width == 2:
        clear = [position for position in (0, 1) if _clearly_label(table, position)]
        if len(clear) == 1:
            return {"text": 1 - clear[0], "label": clear[0]}
    return keys


def _clearly_label(table: Table, position: int) -> bool:
    """Few distinct short values, far shorter than those of the other column, which hardly repeats."""
    rows = table.sample
    words = [row[position].strip() for row in rows]
    others = [row[1 - position] for row in rows]
    return (
        max(map(len, words)) <= 40
        and sum(map(len, others)) > 3 * sum(map(len, words))
        and len(set(words)) <= max(2, len(rows) // 2)
        and len(set(others)) > 0.5 * len(rows)
    )


def _shown(table: Table) -> str:
    names = table.names if table.names is not None else list(range(table.width))
    pairs = []
    for name in names[:12]:
        value = _at(table.sample[0], table.inside(name)) if table.sample else MISSING
        text = "" if value is MISSING else f" (such as {short(value)})"
        pairs.append(f"{name!r}{text}")
    return "its columns: " + ", ".join(pairs) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def short(value: Any, chars: int = 40) -> str:
    """`repr`, cut to `chars`."""
    text = repr(value if type(value) is not str or len(value) < 400 else value[:400])
    return text if len(text) <= chars else text[: chars - 3] + "..."


def _fault(table: Table, role: Role, key: str | int) -> Fault | None:
    where = f"data.columns.{role.name}"
    if isinstance(key, int):
        if 0 <= key < table.width:
            return None
        return Fault(where, f"{table.shown} has no column {key}: positions are 0 to {table.width - 1}", _shown(table))
    if table.names is None:
        fix = f"data.header=true if its first line holds names, else {where}=0"
        return Fault(where, f"{table.shown} has no header, so no column {key!r}", _shown(table), fix)
    if table.names.count(key) == 1:
        return None
    if table.names.count(key) > 1:
        return Fault(
            where,
            f"{table.shown} has {table.names.count(key)} columns named {key!r}",
            "",
            f"{where}={table.names.index(key)}",
        )
    if any(isinstance(row, dict) and _at(row, key) is not MISSING for row in table.sample):
        return None
    near = nearest(key, table.names) or next((name for name in table.names if name.lower() == key.lower()), None)
    fix = shlex.quote(f"{where}={near}") if near else ""
    return Fault(where, f"{table.shown} has no column {key!r}", _shown(table), fix)


def _which(table: Table, roles: Sequence[Role], missing: list[str]) -> Fault:
    """What to say when columns can't be told: the columns, an example row, and a line to type."""
    names = table.names if table.names is not None else list(range(table.width))
    wanted = [role.name for role in roles if role.required]
    examples = [str(name) for name in names] + ["NAME"] * len(wanted)
    if table.sample and len(names) >= 2 and table.names is None:
        chars = [sum(len(row[i]) for row in table.sample) for i in range(len(names))]
        values = [len({row[i] for row in table.sample}) for i in range(len(names))]
        text = next(i for i in range(len(names)) if 2 * chars[i] > max(chars))
        label = min((i for i in range(len(names)) if i != text), key=lambda i: (values[i], chars[i]))
        examples = [str(text), str(label)] + ["N"] * len(wanted)
    known = _guess(table, roles, {})
    free = iter(name for name in examples if name not in map(str, known.values()))
    typed = " ".join(
        shlex.quote(f"data.columns.{name}={known[name] if name in known else next(free)}") for name in wanted
    )
    if len(names) < len(wanted):
        return Fault(
            table.shown,
            f"has {len(names)} column(s), {len(wanted)} are needed",
            _shown(table),
            "data.delimiter=... if it has more",
        )
    return Fault(
        table.shown,
        f"can't tell which column is the {' and which the '.join(missing)}",
        _shown(table),
        f"name them: {typed}",
    )

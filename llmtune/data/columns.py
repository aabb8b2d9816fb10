"""Which column holds the text, which the label: what the user named, or what the file leaves no doubt about."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtune.core.errors import DataError, Fault, nearest
from llmtune.data.files.tables import Table
from llmtune.data.forms.values import BadValue, as_text
from llmtune.data.roles import Role

TRUE, FALSE = {"1", "1.0", "true", "True", "TRUE", "yes"}, {"0", "0.0", "false", "False", "FALSE", "no", ""}
MISSING = object()
Get = Callable[[Any], Any]
"""the value of one column in a row; raises BadValue"""


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
        if role.kind == "json":
            return lambda row: [get(row) for get in getters.values()]
        return lambda row: [name for name, get in getters.items() if _switched(name, get(row))]
    inside = table.inside(key)

    def get(row: Any) -> Any:
        value = _at(row, inside)
        if role.is_path and type(value) is str and value.strip():
            return _located(table.folder, value.strip())
        if value is MISSING and role.sparse:
            return None
        if value is MISSING:
            raise BadValue(f"no {key!r}")
        return value

    return get


def _located(folder: Path | None, path: str) -> str:
    """The full path of a file that a row names; corpora keep recordings in a folder beside their table."""
    named = Path(path).expanduser()
    homes = [Path(), Path("clips"), Path("wavs")] if not named.is_absolute() else [Path()]
    tried = [Path(folder or "") / home / named for home in homes]
    return os.path.abspath(next((place for place in tried if place.is_file()), tried[0]))


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
        missing = [name for name in _needed(roles) if name not in keys and _instead(roles, name) not in keys]
        if missing:
            faults.append(_which(table, roles, missing))
    if faults:
        raise DataError(*faults)
    return {
        name: Column(key, _getter(table, next(role for role in roles if role.name == name), key))
        for name, key in keys.items()
    }


def _needed(roles: Sequence[Role]) -> list[str]:
    """Of the roles that a file must have those to ask for: of two that may stand for each other the first."""
    asked: list[str] = []
    for role in roles:
        if role.required and role.unless not in asked:
            asked.append(role.name)
    return asked


def _instead(roles: Sequence[Role], name: str) -> str | None:
    return next(role.unless for role in roles if role.name == name)


def _guess(table: Table, roles: Sequence[Role], keys: dict[str, Any]) -> dict[str, Any]:
    """`keys`, and for the roles without one the only column whose name says it, or the clear case of two columns."""
    keys = dict(keys)
    taken = {str(key) for key in keys.values()}
    if table.names is not None:
        found = {
            role.name: [name for name in table.names if name.lower() in role.guesses and name not in taken]
            for role in roles
            if role.name not in keys and role.unless not in keys  # what was named is not doubled by a guess
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
    if table.found.get("layout") == "recordings alone":
        return Fault(table.shown, "holds recordings, and nothing says what is said in them",
                     "a text beside each (a.wav, a.txt), a table of paths and transcripts, LibriSpeech, LJSpeech")
    names = table.names if table.names is not None else list(range(table.width))
    wanted = _needed(roles)
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
    nested = bool(table.sample) and isinstance(table.sample[0], dict)
    if len(names) < len(wanted) and not nested:
        return Fault(
            table.shown,
            f"has {len(names)} column(s), {len(wanted)} are needed",
            _shown(table),
            "data.delimiter=... if it has more" + (
                ", or data.format=parallel for two files side by side" if "target" in wanted else ""
            ),
        )
    return Fault(
        table.shown,
        f"can't tell which column is the {' and which the '.join(missing)}",
        _shown(table),
        f"name them: {typed}",
    )

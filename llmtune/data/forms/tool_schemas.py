"""Tools and calls of tools in the forms that files have them in, as OpenAI's: what chat templates take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmtune.data.forms.values import BadValue


def read_tools(value: Any) -> list[dict[str, Any]] | None:
    """Schemas as {type: function, function: {name, description, parameters}}; None where none are named.

    Raises:
        BadValue: no list of objects with a name.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        raise BadValue("its tools are no JSON")
    found = []
    for tool in value if isinstance(value, list) else [value]:
        inner = tool.get("function", tool) if isinstance(tool, dict) else tool
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"].strip():
            raise BadValue("a tool without a name")
        found.append({"type": "function", "function": inner})
    return found or None


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    return [tool["function"]["name"] for tool in tools]


def calls_of(value: Any) -> list[dict[str, Any]]:
    """Calls as {type: function, function: {name, arguments}}, arguments an object: of one call, a list, or JSON.

    Raises:
        BadValue: it is no JSON, or names no tool.
    """
    value = _parsed(value, "a call of a tool")
    calls = []
    for call in value if isinstance(value, list) else [value]:
        inner = call.get("function", call) if isinstance(call, dict) else None
        if isinstance(inner, str) and isinstance(call, dict):  # {"function": "name", "arguments": ...}
            inner = {"name": inner, **{key: call[key] for key in ("arguments", "parameters") if key in call}}
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"].strip():
            raise BadValue("a call of a tool without a name")
        given = inner.get("arguments", inner.get("parameters"))
        arguments = _parsed(given, f"the arguments of {inner['name']!r}") if given not in (None, "") else {}
        if not isinstance(arguments, dict):
            raise BadValue(f"the arguments of {inner['name']!r} are a {type(arguments).__name__}, not an object")
        made: dict[str, Any] = {"type": "function", "function": {"name": inner["name"], "arguments": arguments}}
        if isinstance(call, dict) and isinstance(call.get("id"), str):
            made["id"] = call["id"]
        calls.append(made)
    if not calls:
        raise BadValue("an empty list of calls")
    return calls


def _parsed(value: Any, what: str) -> Any:
    """A value that may be given as its JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise BadValue(f"{what} is no JSON: {value[:60]!r}") from None

"""Calls of tools in what a model wrote, in the forms of the usual templates, and whether they are those of the gold."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from llmtune.data.forms.tool_schemas import calls_of
from llmtune.data.forms.values import BadValue

TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
"""Hermes, Qwen, and the templates that ship here"""
LISTED = re.compile(r"\[TOOL_CALLS\]\s*(.*)", re.DOTALL)
"""Mistral"""
NAMED = re.compile(r"(?:\[TOOL_CALLS\])?\s*([\w.-]+)\[ARGS\]\s*")
PYTHON_TAG = re.compile(r"<\|python_tag\|>\s*(.*)", re.DOTALL)
"""Llama 3"""
ENDS = re.compile(r"(</s>|<\|(eot_id|eom_id|im_end|end_of_text)\|>)\s*\Z")


class Written(NamedTuple):
    content: str
    """what is said beside the calls"""
    calls: list[dict[str, Any]]
    """{type, function: {name, arguments}}"""
    is_broken: bool
    """is there a call that can't be read?"""


def read_calls(text: str) -> Written:
    """What a model wrote, as an assistant's message holds it."""
    text = ENDS.sub("", text.strip()).strip()
    if "<tool_call>" in text:
        bodies, content = TAGGED.findall(text), TAGGED.sub("", text)
    elif "[ARGS]" in text:
        names = list(NAMED.finditer(text))
        ends = [*(found.start() for found in names[1:]), len(text)]
        bodies = [f'{{"name": {json.dumps(found[1])}, "arguments": {text[found.end() : end]}}}'
                  for found, end in zip(names, ends)]  # fmt: skip
        content = text[: names[0].start()] if names else text
    elif found := LISTED.search(text) or PYTHON_TAG.search(text):
        bodies, content = [found[1]], text[: found.start()]
    elif _looks_like_calls(text):
        bodies, content = [text], ""
    else:
        return Written(text, [], False)
    calls: list[dict[str, Any]] = []
    is_broken = not bodies
    for body in bodies:
        try:
            calls += calls_of(body.strip())
        except BadValue:
            is_broken = True
    return Written(content.strip(), calls, is_broken)


def _looks_like_calls(text: str) -> bool:
    """Is all of it JSON of an object, or of several, with a name and arguments?"""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    items = value if isinstance(value, list) and value else [value]
    return all(isinstance(one, dict) and "name" in one and {"arguments", "parameters"} & one.keys() for one in items)


def same_calls(gold: Sequence[dict[str, Any]], written: Sequence[dict[str, Any]]) -> bool:
    """The same tools with the same arguments, as JSON, in whatever order they are called."""
    return sorted(map(_key, gold)) == sorted(map(_key, written))


def same_names(gold: Sequence[dict[str, Any]], written: Sequence[dict[str, Any]]) -> bool:
    return sorted(call["function"]["name"] for call in gold) == sorted(call["function"]["name"] for call in written)


def _key(call: dict[str, Any]) -> str:
    return json.dumps([call["function"]["name"], _plain(call["function"]["arguments"])], sort_keys=True)


def _plain(value: Any) -> Any:
    """1 and 1.0 are one number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value

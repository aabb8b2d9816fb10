"""Dialogues in the forms that files have them in, as one: a list of messages that chat templates take.

A message is {role, content, tool_calls?, reasoning_content?, weight?}; roles are system, user, assistant, tool. Known
forms: OpenAI messages, ShareGPT, alpaca, pairs of question and answer, a list of texts in turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from llmtune.core.errors import did_you_mean
from llmtune.data import roles
from llmtune.data.forms.tool_schemas import calls_of, read_tools, tool_names
from llmtune.data.forms.values import BadValue

Message = dict[str, Any]
ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "observation": "tool", "function": "tool", "function_response": "tool", "ipython": "tool",
}  # fmt: skip
"""by the words that files use; those of a call bring no text but JSON"""
CALLS = ("function_call", "tool_call")
ROLE_KEYS, CONTENT_KEYS = ("role", "from", "speaker", "author"), ("content", "value", "text", "message")
ALTERNATING = ("user", "assistant")
MESSAGES = replace(roles.MESSAGES, required=True, unless="prompt", sparse=True,
                   guesses=(*roles.MESSAGES.guesses, "history"))  # fmt: skip
PROMPT = replace(roles.PROMPT, required=True, unless="messages", sparse=True, kind="turns")
RESPONSE = replace(roles.RESPONSE, sparse=True, kind="turns")
INPUT = replace(roles.CONTEXT, required=False, guesses=("input", "context"), sparse=True)
"""a text that an instruction is about"""
SYSTEM, TOOLS = replace(roles.SYSTEM, sparse=True), replace(roles.TOOLS, sparse=True)


class Conversation(NamedTuple):
    messages: list[Message]
    tools: list[dict[str, Any]] | None
    """JSON schemas of the tools that may be called, in OpenAI's form; None: none are named"""


def conversation_of(values: Mapping[str, str | None], *, answered: bool) -> Conversation:
    """The dialogue of a row.

    Args:
        values: by role, as rows keep them (see the roles above): `messages`, or `prompt` and `response` (with
            `context`, a text that belongs to the prompt, and `messages` for earlier turns); `system`, `tools`.
        answered: must it end with an assistant's turn? (to train and to score, not to predict)

    Raises:
        BadValue: the reason why the row is none.
    """
    tools = read_tools(_json(values.get("tools")))
    messages = turns_of(_json(values.get("messages"))) if values.get("messages") is not None else []
    own = _asked(values, messages)
    messages += own
    if values.get("response") is not None:
        if not own:
            raise BadValue("a response without a prompt")
        messages += turns_of(_json(values["response"]), "assistant")
    elif own and answered:
        raise BadValue("no response")
    if values.get("system") is not None:
        if messages and messages[0]["role"] == "system":
            raise BadValue("a system text beside messages that begin with one")
        messages.insert(0, {"role": "system", "content": values["system"]})
    check_order(messages, answered=answered)
    check_calls(messages, tools)
    return Conversation(messages, tools)


def _asked(values: Mapping[str, str | None], earlier: Sequence[Message]) -> list[Message]:
    """The turns of `prompt`; none where it only repeats how the messages begin."""
    if values.get("prompt") is None:
        return []
    prompt = turns_of(_json(values["prompt"]), "user")
    if values.get("context") is not None:
        if prompt[-1]["role"] != "user":
            raise BadValue("an input beside a prompt that does not end with a user's turn")
        prompt[-1]["content"] += "\n" + str(values["context"])
    spoken = [message for message in earlier if message["role"] != "system"]
    repeats = spoken[: len(prompt)] == prompt and values.get("response") is None
    return [] if repeats else prompt


def check_row(values: Mapping[str, str | None]) -> None:
    """A row to learn from or to score. Raises BadValue. Rows of preferences have a check of their own."""
    if not {"chosen", "rejected", "label"} & values.keys():
        conversation_of(values, answered=True)


def turns_of(value: Any, role: str = "user") -> list[Message]:
    """Messages in any known form; a text by itself is one turn of `role`. Raises BadValue."""
    if isinstance(value, str):
        return [{"role": role, "content": _filled(value, role)}]
    if isinstance(value, dict):
        value = next((value[key] for key in ("messages", "conversations") if isinstance(value.get(key), list)), [value])
    if not isinstance(value, list):
        raise BadValue("no dialogue: it is " + ("nothing" if value is None else f"a {type(value).__name__}"))
    if value and all(isinstance(turn, str) for turn in value):
        return [
            {"role": ALTERNATING[i % 2], "content": _filled(turn, ALTERNATING[i % 2])} for i, turn in enumerate(value)
        ]
    if value and all(isinstance(pair, list) and len(pair) == 2 for pair in value):  # alpaca's history
        return [message for pair in value for message in turns_of(pair)]
    messages: list[Message] = []
    for turn in value:
        _add(messages, turn)
    return messages


def _add(messages: list[Message], turn: Any) -> None:
    if not isinstance(turn, dict):
        raise BadValue(f"a turn is a {type(turn).__name__}, not an object with role and content")
    word = _first(turn, ROLE_KEYS)
    if not isinstance(word, str):
        raise BadValue(f"a turn without a role (keys: {', '.join(map(str, turn))})")
    role = ROLES.get(word.strip().lower())
    if role is None:
        hint = did_you_mean(word.lower(), ROLES)
        raise BadValue(f"unknown role {word!r}; known: {', '.join(ROLES)}" + (f"; {hint}" if hint else ""))
    if word.strip().lower() in CALLS:
        calls = calls_of(_first(turn, CONTENT_KEYS))
        if messages and messages[-1]["role"] == "assistant":  # it said something, and calls
            messages[-1].setdefault("tool_calls", []).extend(calls)
        else:
            messages.append({"role": "assistant", "content": "", "tool_calls": calls})
        return
    calls = calls_of(turn["tool_calls"]) if role == "assistant" and turn.get("tool_calls") else []
    if role == "assistant" and turn.get("function_call"):  # OpenAI's before there were several
        calls += calls_of(turn["function_call"])
    content = _content(_first(turn, CONTENT_KEYS), role, may_lack=bool(calls))
    if role == "system" and not content:
        return
    message: Message = {"role": role, "content": content, **({"tool_calls": calls} if calls else {})}
    for key in ("name", "tool_call_id") if role == "tool" else ("reasoning_content",):
        if isinstance(turn.get(key), str) and role in ("tool", "assistant"):
            message[key] = turn[key]
    if role == "assistant" and turn.get("weight") in (0, 0.0, False):
        message["weight"] = 0
    messages.append(message)


def _first(turn: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((turn[key] for key in keys if turn.get(key) is not None), None)


def _content(value: Any, role: str, *, may_lack: bool) -> str:
    """The text of a turn; OpenAI's list of parts becomes one text."""
    if isinstance(value, list):
        parts = [part for part in value if isinstance(part, dict)]
        strange = [part.get("type") for part in parts if not isinstance(part.get("text"), str)]
        if strange or not all(isinstance(part, (dict, str)) for part in value):
            raise BadValue(f"a turn holds {strange[0] if strange else 'something else'}; text alone is known")
        value = "".join(part if isinstance(part, str) else part["text"] for part in value)
    if role == "tool" and isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    if value is None and (may_lack or role in ("tool", "system")):
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        what = "missing" if value is None else f"a {type(value).__name__}"
        raise BadValue(f"the content of a turn of {role} is {what}")
    return value if may_lack or role in ("tool", "system") else _filled(value, role)


def _filled(text: str, role: str) -> str:
    if not text.strip():
        raise BadValue(f"the content of a turn of {role} is empty")
    return text


def check_order(messages: Sequence[Message], *, answered: bool) -> None:
    """Raises BadValue where the roles do not follow each other as they do in a dialogue."""
    if not messages:
        raise BadValue("a dialogue without turns")
    before = "start"
    for place, message in enumerate(messages, 1):
        role = "call" if message.get("tool_calls") else message["role"]
        if role not in FOLLOWS[before]:
            allowed = " or ".join(NAMES[one] for one in FOLLOWS[before])
            raise BadValue(f"order of roles: turn {place} is {NAMES[role]}, after {NAMES[before]} comes {allowed}")
        before = role
    if not answered:
        return
    if not any(message["role"] == "assistant" for message in messages):
        raise BadValue("no turn of the assistant: there is nothing to learn")
    if before not in ("assistant", "call"):
        raise BadValue(f"it ends with {NAMES[before]}, not with one of the assistant")


FOLLOWS = {
    "start": ("system", "user"), "system": ("user",), "user": ("assistant", "call"), "assistant": ("user",),
    "call": ("tool",), "tool": ("assistant", "call", "tool"),
}  # fmt: skip
"""by what came before: what may come"""
NAMES = {
    "start": "the beginning", "system": "a system turn", "user": "a user's turn", "assistant": "an assistant's turn",
    "call": "a call of a tool", "tool": "a tool's answer",
}  # fmt: skip


def check_calls(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None) -> None:
    """Raises BadValue for the call of a tool that is not among those named."""
    if tools is None:
        return
    known = tool_names(tools)
    for message in messages:
        for call in message.get("tool_calls", ()):
            name = call["function"]["name"]
            if name not in known:
                raise BadValue(f"calls the tool {name!r}, which is not among its tools: {', '.join(known) or 'none'}")


def _json(stored: str | None) -> Any:
    return None if stored is None else json.loads(stored)

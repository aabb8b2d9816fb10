"""Rows of preferences in the forms that files have them in, as one: a prompt, and its answers from best to worst.

Known forms: `chosen` and `rejected` beside a prompt (texts, messages, lists of messages); both of them whole dialogues,
which begin alike; both of them texts with `Human:` and `Assistant:` in them; one answer with a label true or false.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from llmtune.data import roles
from llmtune.data.forms import conversation
from llmtune.data.forms.conversation import Message, check_calls, check_order, conversation_of, turns_of
from llmtune.data.forms.tool_schemas import read_tools
from llmtune.data.forms.values import BadValue

CHOSEN = replace(roles.CHOSEN, required=False, kind="turns", known_before=True, sparse=True)
REJECTED = replace(roles.REJECTED, required=False, kind="turns", known_before=True, sparse=True)
JUDGED = replace(roles.LABEL, required=False, guesses=("label", "desirable", "thumbs_up", "kto_tag"), sparse=True)
RESPONSE = replace(conversation.RESPONSE, known_before=True, guesses=("response", "completion", "answer", "output"))
PROMPT = replace(conversation.PROMPT, required=False)
MESSAGES = replace(conversation.MESSAGES, required=False)
PAIRS = (CHOSEN, REJECTED, PROMPT, MESSAGES, conversation.INPUT, conversation.SYSTEM, conversation.TOOLS)
ALL = (*PAIRS, RESPONSE, JUDGED)
NAMING = "data.columns.chosen=COLUMN data.columns.rejected=COLUMN"
WORDS = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}
"""what a label may be, in lower case"""
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
"""how a dialogue is written in one text"""


class Preference(NamedTuple):
    prompt: list[Message]
    answers: list[list[Message]]
    """the chosen and the rejected one; or the only one"""
    tools: list[dict[str, Any]] | None
    desirable: bool | None
    """of an only answer: is it wanted? None: it is not known"""


def check_preference(values: Mapping[str, str | None]) -> None:
    """Raises BadValue where a row has no two answers to compare, nor one with a label."""
    found = preference_of(values)
    if len(found.answers) == 1 and "label" in values and found.desirable is None:
        raise BadValue("neither chosen and rejected, nor a label")


def preference_of(values: Mapping[str, str | None]) -> Preference:
    """What a row says.

    Args:
        values: by role as rows keep them: `chosen` and `rejected`; or `response`, or `messages` that end with the
            answer, and `label`; with `prompt` or `messages`, `context`, `system`, `tools` as in a dialogue.

    Raises:
        BadValue: the reason why it can't be used.
    """
    if values.get("chosen") is None and values.get("rejected") is None:
        return _judged(values)
    for side in ("chosen", "rejected"):
        if values.get(side) is None:
            raise BadValue(f"no {side} answer")
    chosen, rejected = (_answer(side, _read(values, side)) for side in ("chosen", "rejected"))
    tools = read_tools(_read(values, "tools"))
    prompt = _prompt(values)
    whole = [turns[0]["role"] != "assistant" for turns in (chosen, rejected)]
    if all(whole):
        prompt, chosen, rejected = _common(prompt, chosen, rejected)
    elif any(whole):
        raise BadValue("of chosen and rejected one is a whole dialogue, the other an answer")
    if not any(message["role"] == "user" for message in prompt):
        raise BadValue("no prompt")
    if chosen == rejected:
        raise BadValue("chosen equals rejected")
    for side, turns in (("chosen", chosen), ("rejected", rejected)):
        try:
            check_order([*prompt, *turns], answered=True)
            check_calls(turns, tools)
        except BadValue as bad:
            raise BadValue(f"{side}: {bad}") from None
    return Preference(prompt, [chosen, rejected], tools, None)


def _read(values: Mapping[str, str | None], role: str) -> Any:
    stored = values.get(role)
    return None if stored is None else json.loads(stored)


def _answer(side: str, value: Any) -> list[Message]:
    """The turns of an answer, or of a whole dialogue."""
    try:
        if isinstance(value, str):
            turns = _written_out(value)
            return turns if turns else turns_of(value, "assistant")
        return turns_of(value, "assistant")
    except BadValue as bad:
        raise BadValue(f"{side}: {bad}") from None


def _written_out(text: str) -> list[Message]:
    """The turns of a text that begins with `Human:` and has `Assistant:` in it; none of any other."""
    parts = TURN.split(text.strip())
    if len(parts) < 5 or parts[0] or parts[1] != "Human":
        return []
    said = {"Human": "user", "Assistant": "assistant"}
    return [{"role": said[word], "content": part.strip()} for word, part in zip(parts[1::2], parts[2::2])]


def _prompt(values: Mapping[str, str | None]) -> list[Message]:
    """The turns before the answers, as far as columns of their own tell them."""
    asked = {name: values.get(name) for name in ("messages", "prompt", "context", "system")}
    if not (asked["messages"] or asked["prompt"]):
        return [{"role": "system", "content": asked["system"]}] if asked["system"] else []
    return conversation_of(asked, answered=False).messages


def _common(
    prompt: list[Message], chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """Whole dialogues taken apart: what they have in common is the prompt, to which `prompt` may add a system text."""
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    if same == len(chosen) == len(rejected):
        raise BadValue("chosen equals rejected")
    while same and chosen[same - 1]["role"] not in ("user", "tool"):
        same -= 1  # an answer that begins alike is still the answer
    if not same:
        raise BadValue("chosen and rejected are whole dialogues that do not begin alike: they answer different prompts")
    shared, spoken = chosen[:same], [message for message in prompt if message["role"] != "system"]
    if [message for message in shared if message["role"] != "system"][: len(spoken)] != spoken:
        raise BadValue("chosen and rejected are whole dialogues that do not begin with the prompt")
    told = [message for message in prompt if message["role"] == "system"]
    if told and shared[0]["role"] != "system":
        shared = [*told, *shared]
    return shared, chosen[same:], rejected[same:]


def _judged(values: Mapping[str, str | None]) -> Preference:
    """One answer, with or without a label."""
    label = _read(values, "label")
    desirable = None
    if label is not None:
        desirable = WORDS.get(label.lower()) if isinstance(label, str) else None
        if desirable is None:
            raise BadValue(f"the label {label!r} is neither true nor false")
    if values.get("response") is None and values.get("messages") is None:
        raise BadValue(f"no answer: neither chosen and rejected ({NAMING}), nor a response, nor messages that end "
                       "with one")  # fmt: skip
    whole = conversation_of(values, answered=True)
    last = max(place for place, message in enumerate(whole.messages) if message["role"] == "user") + 1
    return Preference(whole.messages[:last], [whole.messages[last:]], whole.tools, desirable)

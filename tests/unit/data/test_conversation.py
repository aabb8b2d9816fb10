"""Dialogues of every known form become the same messages; what is none says why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmtune.data.forms.conversation import MESSAGES, PROMPT, RESPONSE, conversation_of, turns_of
from llmtune.data.forms.values import BadValue

ASK, SAY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "CET"}}}
CLOCK = {"name": "clock", "description": "tells the time", "parameters": {"type": "object", "properties": {}}}


def of(answered: bool = True, **columns: Any) -> Any:
    kinds = {"messages": MESSAGES, "prompt": PROMPT, "response": RESPONSE}
    values = {
        name: kinds[name].convert(value) if name in kinds else value if isinstance(value, str) else json.dumps(value)
        for name, value in columns.items()
    }
    return conversation_of(values, answered=answered)


@pytest.mark.parametrize("given", [
    [ASK, SAY],
    [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
    [{"from": "User", "value": "Hi"}, {"from": "ASSISTANT", "value": "Hello"}],
    [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, SAY],
    ["Hi", "Hello"],
    [["Hi", "Hello"]],
    {"messages": [ASK, SAY]},
    json.dumps([ASK, SAY]),
    [{"role": "system", "content": ""}, ASK, {**SAY, "content": "Hello", "refusal": None}],
])  # fmt: skip
def test_every_form_of_a_dialogue_is_read_alike(given: Any) -> None:
    assert of(messages=given).messages == [ASK, SAY]


def test_prompt_and_response_with_all_that_alpaca_has() -> None:
    found = of(prompt="Sum it up", context="1 and 2", response="3", system="Be brief", messages=[["Hi", "Hello"]])
    assert [message["content"] for message in found.messages] == ["Be brief", "Hi", "Hello", "Sum it up\n1 and 2", "3"]
    assert of(prompt=[ASK], response=[SAY]).messages == [ASK, SAY]
    assert of(prompt="Hi", messages=[ASK, SAY]).messages == [ASK, SAY]  # the prompt only repeats how it begins


@pytest.mark.parametrize("answer", ['{"a": 1}', "[1, 2]", '[{"from": "Bonn"}]', "42", '"quoted"', "null"])
def test_an_answer_that_looks_like_json_stays_as_it_was_written(answer: str) -> None:
    assert of(prompt="Give JSON", response=answer).messages[-1]["content"] == answer


def test_calls_of_tools_are_objects_whatever_they_were_given_as() -> None:
    answer = {"role": "tool", "content": '{"time": 3}'}
    share_gpt = [
        {"from": "human", "value": "Hi"}, {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"from": "observation", "value": '{"time": 3}'}, {"from": "gpt", "value": "Hello"},
    ]  # fmt: skip
    stringly = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "CET"}'}}
    open_ai = [ASK, {"role": "assistant", "content": None, "tool_calls": [stringly]},
               {"role": "tool", "content": {"time": 3}, "tool_call_id": "c1"}, SAY]  # fmt: skip
    found = of(messages=share_gpt, tools=[CLOCK])
    assert found.messages == [ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}, answer, SAY]
    assert found.tools == [{"type": "function", "function": CLOCK}]
    found = of(messages=open_ai, tools=[{"type": "function", "function": CLOCK}])
    assert found.messages[1]["tool_calls"] == [{**CALL, "id": "c1"}]
    assert found.messages[2] == {**answer, "tool_call_id": "c1"}


@pytest.mark.parametrize(("messages", "reason"), [
    ([], "without turns"),
    ([SAY], "turn 1 is an assistant's turn, after the beginning comes a system turn or a user's turn"),
    ([ASK, ASK, SAY], "turn 2 is a user's turn"),
    ([ASK, SAY, SAY], "turn 3 is an assistant's turn, after an assistant's turn comes a user's turn"),
    ([ASK, SAY, {"role": "system", "content": "x"}], "turn 3 is a system turn"),
    ([ASK], "no turn of the assistant"),
    ([ASK, SAY, ASK], "ends with a user's turn"),
    ([ASK, {"role": "assistant", "content": " "}], "a turn of assistant is empty"),
    ([ASK, {"role": "assistant"}], "a turn of assistant is missing"),
    ([ASK, {"role": "asistant", "content": "x"}], "unknown role 'asistant'; known: system,"),
    ([{"content": "x"}], "without a role"),
    ([ASK, 3], "a turn is a int"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, SAY], "holds image_url"),
    ([ASK, {"from": "function_call", "value": "{'name': 'clock'}"}], "is no JSON"),
    ([ASK, {"from": "function_call", "value": '{"nome": 1}'}], "without a name"),
    ([ASK, {"from": "function_call", "value": '{"name": "clock", "arguments": [1]}'}], "are a list, not an object"),
    ([ASK, {"from": "function_call", "value": '{"name": "oven", "arguments": {}}'}],
     "calls the tool 'oven', which is not among its tools: clock"),
    ([ASK, {"role": "tool", "content": "x"}], "turn 2 is a tool's answer"),
    ([ASK, {"role": "assistant", "tool_calls": [CALL]}, SAY], "after a call of a tool comes a tool's answer"),
])  # fmt: skip
def test_what_is_no_dialogue_says_why(messages: list[Any], reason: str) -> None:
    with pytest.raises(BadValue) as caught:
        of(messages=messages, tools=[CLOCK])
    assert reason in str(caught.value)


@pytest.mark.parametrize(("columns", "reason"), [
    ({"prompt": "Hi"}, "no response"),
    ({"response": "Hi"}, "without a prompt"),
    ({"messages": [{"role": "system", "content": "a"}, ASK, SAY], "system": "b"}, "a system text beside"),
    ({"messages": [ASK, SAY], "tools": [{"description": "x"}]}, "a tool without a name"),
])  # fmt: skip
def test_columns_that_do_not_fit_together_say_why(columns: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadValue, match=reason):
        of(**columns)


def test_to_predict_a_dialogue_may_end_with_the_user() -> None:
    assert of(answered=False, messages=[ASK, SAY, ASK]).messages[-1] == ASK
    assert of(answered=False, prompt="Hi").messages == [ASK]
    assert turns_of("x", "assistant") == [{"role": "assistant", "content": "x"}]

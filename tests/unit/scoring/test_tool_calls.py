"""Calls are read out of what models of several families write, and compared as JSON."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.scoring.tool_calls import read_calls, same_calls, same_names


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize("text", [
    '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>',
    'Let me see.\n<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>',
    '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}',
    '[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}}]</s>',
    '[TOOL_CALLS]f[ARGS]{"x": 1}',
    '<|python_tag|>{"name": "f", "parameters": {"x": 1}}<|eom_id|>',
    '{"name": "f", "parameters": {"x": 1}}',
])  # fmt: skip
def test_a_call_in_every_form(text: str) -> None:
    found = read_calls(text)
    assert found.calls == [call("f", x=1)]
    assert not found.is_broken
    assert found.content == ("Let me see." if "Let" in text else "")


def test_several_calls_and_none() -> None:
    text = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    both = read_calls(text + "\n" + text.replace('"f"', '"g"'))
    assert [one["function"]["name"] for one in both.calls] == ["f", "g"]
    assert read_calls(" Hello </s>") == ("Hello", [], False)
    assert read_calls('{"a": 1}') == ('{"a": 1}', [], False)


@pytest.mark.parametrize("text", ["<tool_call>{name: f}</tool_call>", "<tool_call>", "[TOOL_CALLS] f(1)",
                                  '[TOOL_CALLS]f[ARGS]{"x": '])  # fmt: skip
def test_a_call_that_cannot_be_read_is_told(text: str) -> None:
    assert read_calls(text).is_broken
    assert not read_calls(text).calls


def test_calls_are_compared_as_json_in_any_order() -> None:
    gold = [call("f", x=1, y=["a", {"z": 2.0}]), call("g")]
    assert same_calls(gold, [call("g"), call("f", y=["a", {"z": 2}], x=1.0)])
    assert not same_calls(gold, gold[:1])
    assert not same_calls([call("f", x=1)], [call("f", x="1")])
    assert same_names([call("f", x=1)], [call("f", x=2)])
    assert not same_names([call("f")], [])

"""What a template writes, which of it the assistant wrote, and that others read the same tokens."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GPT2Config

from llmtune.config.settings import TokenizerSettings
from llmtune.core.errors import ConfigError, ModelError
from llmtune.data.forms.conversation import conversation_of
from llmtune.data.forms.values import BadValue
from llmtune.data.tokens.chat_template import SHIPPED, ChatTemplate, new_tokens, template_text
from llmtune.model.tokenizers import train_tokenizer

LLAMA = """{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}
{%- endif %}{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
MISTRAL = """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}
{{- '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}
{%- endfor %}"""
QWEN = """{%- set ns = namespace(last=0) %}{%- for message in messages %}{%- if message.role == 'user' %}
{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}{%- for message in messages %}
{%- if message.role == 'assistant' %}{%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
{{- '<|im_start|>assistant\\n' }}{%- if loop.index0 > ns.last %}
{{- '<think>\\n' + (message.content.split('</think>')[0].split('<think>')[-1].strip() if '<think>' in message.content
   else '') + '\\n</think>\\n\\n' }}{%- endif %}
{{- content + '<|im_end|>\\n' }}{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
MARKED = """{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}{% generation %}{{- message['content'] }}{% endgeneration %}
{%- else %}{{- message['content'] }}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>",
    "<end_of_turn>",
)  # fmt: skip
MESSAGES = [
    {"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "And 你好?"}, {"role": "assistant", "content": "你好 <ok>"},
]  # fmt: skip


@functools.cache
def _tokenizer(kind: str) -> Any:
    settings = TokenizerSettings(kind=kind, vocab_size=400, min_frequency=2, lowercase=False)
    texts = ["Hi there, hello. And what is the time? It is three. 你好，现在几点？ User: Assistant:\n" * 3]
    made = train_tokenizer(settings, texts, GPT2Config())
    made.add_special_tokens({"additional_special_tokens": list(TOKENS)})
    return made


def _of(text: str, kind: str = "bpe") -> ChatTemplate:
    return ChatTemplate(_tokenizer(kind), text)


def _shipped(name: str, kind: str = "bpe", system: str | None = None) -> ChatTemplate:
    return _of(template_text(_tokenizer(kind), name, system), kind)


def _learnt(template: ChatTemplate, messages: list[Any] = MESSAGES, **how: Any) -> list[str]:
    pieces = template.pieces(messages, None, **how)
    return [template.tokenizer.decode(ids) for ids, is_learnt in pieces if is_learnt]


@pytest.mark.parametrize(("text", "learnt"), [
    (LLAMA, ["Hello.<|eot_id|>", "你好 <ok><|eot_id|>"]),
    (GEMMA, ["Hello.<end_of_turn>", "你好 <ok><end_of_turn>"]),
    (MISTRAL, [" Hello.</s>", " 你好 <ok></s>"]),
    (QWEN, ["Hello.<|im_end|>", "<think>\n\n</think>\n\n你好 <ok><|im_end|>"]),
    (MARKED, ["Hello.<|im_end|>", "你好 <ok><|im_end|>"]),
])  # fmt: skip
def test_the_assistants_words_and_its_stop_are_learnt_and_nothing_else(text: str, learnt: list[str]) -> None:
    template = _of(text)
    assert _learnt(template) == learnt
    assert _learnt(template, turns="last") == learnt[-1:]
    assert template.num_joined == 0
    weighed = [*MESSAGES[:1], {**MESSAGES[1], "weight": 0}, *MESSAGES[2:]]
    assert _learnt(template, weighed) == learnt[1:]


def test_what_was_thought_in_earlier_turns_is_neither_read_nor_learnt() -> None:
    messages = [dict(message) for message in MESSAGES]
    for message in messages[1::2]:
        message["content"] = "<think>\nhm\n</think>\n\n" + message["content"]
    assert _learnt(_of(QWEN), messages) == ["Hello.<|im_end|>", "<think>\nhm\n</think>\n\n你好 <ok><|im_end|>"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_template_marks_its_answers(name: str) -> None:
    template = _shipped(name)
    assert [text.replace(template.stop, "|") for text in _learnt(template)] == ["Hello.|", "你好 <ok>|"]
    assert template.num_joined == 0


@pytest.mark.parametrize("text", [LLAMA, GEMMA, MISTRAL, QWEN, MARKED, *SHIPPED])
def test_tokens_are_those_of_the_stored_tokenizer_and_begin_with_what_is_asked_by(text: str, tmp_path: Path) -> None:
    template = _shipped(text) if text in SHIPPED else _of(text)
    template.tokenizer.save_pretrained(tmp_path)
    stored = AutoTokenizer.from_pretrained(tmp_path)
    pieces = template.pieces(MESSAGES, None)
    ids = [one for some, _ in pieces for one in some]
    assert ids == stored.apply_chat_template(MESSAGES, tokenize=True)["input_ids"]
    asked = stored.apply_chat_template(MESSAGES[:3], tokenize=True, add_generation_prompt=True)["input_ids"]
    assert template.prompt(MESSAGES[:3], None) == asked == ids[: len(asked)]
    last = max(number for number, (_, is_learnt) in enumerate(pieces) if is_learnt)
    assert len(asked) == sum(len(some) for some, _ in pieces[:last])


def test_the_stop_token_is_learnt_where_padding_is_the_same_token() -> None:
    tokenizer = _tokenizer("bpe")
    before = tokenizer.pad_token
    tokenizer.pad_token = tokenizer.eos_token
    try:
        for some, is_learnt in ChatTemplate(tokenizer, MISTRAL).pieces(MESSAGES, None):
            assert (some[-1] == tokenizer.eos_token_id) == is_learnt
    finally:
        tokenizer.pad_token = before


def test_an_answer_that_would_grow_together_with_the_template_is_tokenised_as_when_it_is_asked_for() -> None:
    text = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    text += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    template = _of(text)
    pieces = template.pieces(MESSAGES, None)
    assert template.num_joined == 1  # the blank stands alone before a Chinese character
    assert pieces[0][0] == template.prompt(MESSAGES[:1], None)
    assert "".join(template.tokenizer.decode(ids) for ids, _ in pieces) == template.render(MESSAGES, None)


def test_a_tokenizer_that_marks_blanks_finds_the_same_places() -> None:
    for name in SHIPPED:
        template = _shipped(name, "unigram")
        assert next(iter(_learnt(template))).replace(template.stop, "|") == "Hello.|"


def test_a_system_prompt_is_part_of_the_template_and_gives_way_to_one_of_the_row() -> None:
    template = _shipped("chatml", system="It's \"short\".\nAlways.")
    assert template.render(MESSAGES, None).startswith("<|im_start|>system\nIt's \"short\".\nAlways.<|im_end|>\n")
    own = [{"role": "system", "content": "Mine"}, *MESSAGES]
    assert template.render(own, None).startswith("<|im_start|>system\nMine<|im_end|>\n<|im_start|>user")


@pytest.mark.parametrize(("text", "messages", "reason"), [
    (GEMMA, [{"role": "system", "content": "x"}, *MESSAGES], "refuses it: System role not supported"),
    (LLAMA.replace("{%- if add", "{{- 'end of ' + (messages | length | string) }}{%- if add"), MESSAGES,
     "'end of 1<|start_header_id|>ass' becomes '<|start_header_id|>assistant<|'; task.turns=last"),
    (MARKED.replace("{% generation %}", "{% generation %}{% endgeneration %}{% generation %}"), MESSAGES,
     "marks 4 places"),
])  # fmt: skip
def test_a_template_that_does_not_tell_is_refused(text: str, messages: list[Any], reason: str) -> None:
    with pytest.raises(BadValue) as caught:
        _of(text).pieces(messages, None)
    assert reason in str(caught.value)


def test_a_template_without_a_stop_token_is_refused_before_any_row() -> None:
    with pytest.raises(ModelError, match="never learn to stop"):
        _of("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}")
    with pytest.raises(ModelError, match=r"task\.template"):
        _of("{% for m in messages %}")


def test_which_template_is_taken(tmp_path: Path) -> None:
    bare = train_tokenizer(
        TokenizerSettings(kind="bpe", vocab_size=300, min_frequency=2, lowercase=False), ["a b c"], GPT2Config()
    )
    shipped = {name: template_text(bare, name) for name in SHIPPED}
    assert template_text(bare, "auto") == shipped["plain"]
    assert new_tokens(bare, "auto") == ()
    assert new_tokens(bare, "chatml") == ("<|im_start|>", "<|im_end|>")
    bare.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    assert template_text(bare, "auto") == shipped["chatml"]
    bare.chat_template = "own"
    assert template_text(bare, "auto") == "own"
    assert new_tokens(bare, "auto") == ()
    (tmp_path / "mine.jinja").write_text("mine")
    assert template_text(bare, str(tmp_path / "mine.jinja")) == "mine"
    with pytest.raises(ConfigError, match="allowed: auto, chatml"):
        template_text(bare, "chatmi")


@pytest.mark.parametrize("name", SHIPPED)
def test_calls_of_tools_are_written_and_told(name: str) -> None:
    tools = '[{"name": "clock", "parameters": {}}]'
    turns = json.dumps([
        {"role": "user", "content": "When?"},
        {"from": "function_call", "value": '{"name": "clock", "arguments": {"zone": "Zürich"}}'},
        {"role": "tool", "content": "3"}, {"role": "assistant", "content": "At 3"},
    ])  # fmt: skip
    row = conversation_of({"messages": turns, "tools": tools}, answered=True)
    template = _shipped(name)
    text = template.render(row.messages, row.tools)
    assert '{"name": "clock", "parameters": {}}' in text
    call, answer = [template.tokenizer.decode(ids) for ids, is_learnt in template.pieces(*row) if is_learnt]
    assert call == '<tool_call>{"name": "clock", "arguments": {"zone": "Zürich"}}</tool_call>' + template.stop
    assert answer == "At 3" + template.stop


def test_a_template_that_names_the_day_names_one_that_stays() -> None:
    asks = """{%- if not day is defined %}{%- set day = strftime_now("%d %b %Y") %}{%- endif %}
{{- 'On ' + day + '\\n' }}"""
    bare = copy.copy(_tokenizer("bpe"))
    bare.chat_template = asks + LLAMA
    text = template_text(bare, "auto")
    template = ChatTemplate(bare, text)
    assert template.render(MESSAGES, None).startswith("On 26 Jul 2024\n")
    assert bare.apply_chat_template(MESSAGES, tokenize=False) == template.render(MESSAGES, None)
    assert template_text(bare, "auto") == text

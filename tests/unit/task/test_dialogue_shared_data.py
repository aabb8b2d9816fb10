"""Instructions and dialogues as others publish them: what is read, what is learnt, calls that survive."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config

from llmtune.config.settings import TokenizerSettings
from llmtune.data.forms.conversation import PROMPT, RESPONSE, conversation_of
from llmtune.data.tokens.chat_template import SHIPPED, ChatTemplate, new_tokens, template_text
from llmtune.model.tokenizers import train_tokenizer
from llmtune.scoring.maths import final_number
from llmtune.scoring.tool_calls import read_calls, same_calls

DATA = Path(os.environ.get("LLMTUNE_DATA", "/nowhere"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="LLMTUNE_DATA does not name the shared data")


def _rows(name: str) -> list[Any]:
    text = (DATA / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", SHIPPED)
def test_calls_of_glaive_survive_being_written_as_tokens_and_read_again(name: str) -> None:
    rows = _rows("llamafactory_sft/glaive_toolcall_en_demo.json")
    settings = TokenizerSettings(kind="bpe", vocab_size=1000, min_frequency=2, lowercase=False)
    texts = [turn["value"] for row in rows for turn in row["conversations"]]
    tokenizer = train_tokenizer(settings, texts, GPT2Config())
    tokenizer.add_special_tokens({"additional_special_tokens": list(new_tokens(tokenizer, name))})
    template = ChatTemplate(tokenizer, template_text(tokenizer, name))
    num_calls = 0
    for row in rows:
        values = {"messages": json.dumps(row["conversations"]), "tools": row["tools"] or None}
        one = conversation_of(values, answered=True)
        learnt = [tokenizer.decode(ids, clean_up_tokenization_spaces=False)
                  for ids, is_learnt in template.pieces(*one) if is_learnt]  # fmt: skip
        spoken = [message for message in one.messages if message["role"] == "assistant"]
        assert len(learnt) == len(spoken)
        for text, message in zip(learnt, spoken):
            assert text.endswith(template.stop)
            read = read_calls(text.removesuffix(template.stop))
            assert not read.is_broken
            assert same_calls(message.get("tool_calls", []), read.calls)
            assert read.content == message["content"].strip()
            num_calls += len(read.calls)
    assert (len(rows), num_calls) == (300, 211)
    assert template.num_joined == 0


def test_every_row_of_alpaca_and_gsm8k_is_a_dialogue_of_two_turns() -> None:
    kept = {"instruction": "prompt", "question": "prompt", "output": "response", "answer": "response"}
    for name, count in (("llamafactory_sft/alpaca_en_demo.json", 999), ("llamafactory_sft/alpaca_zh_demo.json", 1000),
                        ("llamafactory_sft/identity.json", 91), ("gsm8k/train_2000.jsonl", 2000)):  # fmt: skip
        rows = _rows(name)
        assert len(rows) == count
        for row in rows:
            roles = {"prompt": PROMPT, "response": RESPONSE}
            values = {kept[key]: roles[kept[key]].convert(value) for key, value in row.items() if key in kept}
            one = conversation_of({**values, "context": row.get("input") or None}, answered=True)
            assert [message["role"] for message in one.messages] == ["user", "assistant"]
            if name.startswith("gsm8k"):
                answer = one.messages[-1]["content"]
                assert final_number(answer) == final_number("#### " + answer.split("####")[1])

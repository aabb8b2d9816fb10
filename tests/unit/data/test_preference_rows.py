"""Rows of preferences: every known form says the same, and rows that say nothing are told apart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmtune.data.forms.preference_rows import ALL, check_preference, preference_of
from llmtune.data.forms.values import BadValue

KINDS = {role.name: role for role in ALL}
ASKED = {"role": "user", "content": "Where is the key?"}
GOOD, BAD = "On the hook by the door.", "No idea."


def _kept(**columns: Any) -> dict[str, str | None]:
    return {name: KINDS[name].convert(value) for name, value in columns.items()}


def _said(word: str, text: str, *, share: bool = False) -> dict[str, str]:
    return {"from": word, "value": text} if share else {"role": word, "content": text}


@pytest.mark.parametrize("columns", [
    {"prompt": ASKED["content"], "chosen": GOOD, "rejected": BAD},
    {"messages": [_said("human", ASKED["content"], share=True)], "chosen": _said("gpt", GOOD, share=True),
     "rejected": _said("gpt", BAD, share=True)},
    {"messages": [ASKED], "chosen": [_said("assistant", GOOD)], "rejected": [_said("assistant", BAD)]},
    {"chosen": [ASKED, _said("assistant", GOOD)], "rejected": [ASKED, _said("assistant", BAD)]},
    {"prompt": ASKED["content"], "chosen": [ASKED, _said("assistant", GOOD)],
     "rejected": [ASKED, _said("assistant", BAD)]},
    {"prompt": [ASKED], "chosen": GOOD, "rejected": BAD},
    {"chosen": f"\n\nHuman: {ASKED['content']}\n\nAssistant: {GOOD}",
     "rejected": f"\n\nHuman: {ASKED['content']}\n\nAssistant: {BAD}"},
    {"prompt": "Where is", "context": "the key?", "chosen": GOOD, "rejected": BAD},
])  # fmt: skip
def test_every_form_of_a_pair_says_the_same(columns: dict[str, Any]) -> None:
    found = preference_of(_kept(**columns))
    assert [message["role"] for message in found.prompt] == ["user"]
    assert found.prompt[0]["content"].split() == ASKED["content"].split()
    assert [answer[-1]["content"] for answer in found.answers] == [GOOD, BAD]
    assert found.desirable is None


def test_a_system_text_and_earlier_turns_belong_to_the_prompt() -> None:
    turns = [_said("user", "Hello"), _said("assistant", "Hello!"), ASKED]
    found = preference_of(_kept(system="Be kind.", messages=turns, chosen=GOOD, rejected=BAD))
    assert [message["role"] for message in found.prompt] == ["system", "user", "assistant", "user"]
    whole = [*turns, _said("assistant", GOOD)], [*turns, _said("assistant", BAD)]
    assert preference_of(_kept(system="Be kind.", chosen=whole[0], rejected=whole[1])) == found


def test_answers_that_begin_alike_keep_their_beginning() -> None:
    call = _said("assistant", "Let me think."), _said("user", "Well?")
    found = preference_of(_kept(chosen=[ASKED, *call, _said("assistant", GOOD)],
                                rejected=[ASKED, *call, _said("assistant", BAD)]))  # fmt: skip
    assert len(found.prompt) == 3
    assert [len(answer) for answer in found.answers] == [1, 1]


@pytest.mark.parametrize("label", [True, "true", "Yes", 1, "1"])
def test_one_answer_with_a_label(label: Any) -> None:
    by_turns = preference_of(_kept(messages=[ASKED, _said("assistant", GOOD)], label=label))
    by_columns = preference_of(_kept(prompt=ASKED["content"], response=GOOD, label=label))
    assert by_turns == by_columns
    assert by_turns.desirable is True
    assert preference_of(_kept(prompt=ASKED["content"], response=GOOD, label=False)).desirable is False
    assert preference_of(_kept(prompt=ASKED["content"], response=GOOD)).desirable is None


@pytest.mark.parametrize(("columns", "reason"), [
    ({"prompt": "Hm?", "chosen": GOOD, "rejected": GOOD}, "chosen equals rejected"),
    ({"chosen": [ASKED, _said("assistant", GOOD)], "rejected": [ASKED, _said("assistant", GOOD)]},
     "chosen equals rejected"),
    ({"prompt": "Hm?", "chosen": GOOD, "rejected": None}, "no rejected answer"),
    ({"prompt": "Hm?", "chosen": "", "rejected": BAD}, "no chosen answer"),
    ({"prompt": "Hm?", "chosen": _said("gpt", " ", share=True), "rejected": BAD},
     "chosen: the content of a turn of assistant is empty"),
    ({"chosen": GOOD, "rejected": BAD}, "no prompt"),
    ({"system": "Be kind.", "chosen": GOOD, "rejected": BAD}, "no prompt"),
    ({"prompt": "Hm?", "chosen": _said("user", GOOD), "rejected": _said("user", BAD)},
     "do not begin alike"),
    ({"prompt": "Hm?", "chosen": [ASKED, _said("assistant", GOOD)], "rejected": [ASKED, _said("assistant", BAD)]},
     "do not begin with the prompt"),
    ({"prompt": "Hm?", "chosen": [ASKED, _said("assistant", GOOD)], "rejected": BAD}, "one is a whole dialogue"),
    ({"messages": [ASKED, _said("assistant", "Here.")], "chosen": GOOD, "rejected": BAD},
     "chosen: order of roles: turn 3 is an assistant's turn"),
    ({"prompt": "Hm?", "chosen": _said("wizard", GOOD), "rejected": BAD}, "chosen: unknown role 'wizard'"),
    ({"prompt": "Hm?", "response": GOOD, "label": "maybe"}, "the label 'maybe' is neither true nor false"),
    ({"prompt": "Hm?", "response": GOOD, "label": None}, "neither chosen and rejected, nor a label"),
    ({"prompt": "Hm?", "label": True}, "no answer"),
    ({"messages": [ASKED], "label": True}, "it ends with a user's turn"),
])  # fmt: skip
def test_rows_that_say_nothing_are_told(columns: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadValue) as caught:
        check_preference(_kept(**columns))
    assert reason in str(caught.value) or ("no turn of the assistant" in str(caught.value) and "ends" in reason)


def test_a_text_that_looks_like_json_is_an_answer() -> None:
    found = preference_of(_kept(prompt="Two numbers?", chosen="[1, 2]", rejected=json.dumps({"a": 1})))
    assert [answer[0]["content"] for answer in found.answers] == ["[1, 2]", '{"a": 1}']

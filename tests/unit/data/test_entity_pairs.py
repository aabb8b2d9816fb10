"""Two entities in a text: by marks, places or names; what can't be told has a reason."""

from __future__ import annotations

import json

import pytest

from llmtune.data.forms.entity_pairs import check_pair, joined_tokens, marked_text, unmarked
from llmtune.data.forms.values import BadValue

TEXT = "The child sat in the cradle."
MARKED = "The <e1>child</e1> sat in the <e2>cradle</e2>."
TOKENS = ["The", "child", "sat", "in", "the", "cradle", "."]


def row(**columns: object) -> dict[str, str | None]:
    return {name: value if name == "text" else json.dumps(value) for name, value in columns.items()}  # type: ignore[misc]


@pytest.mark.parametrize("columns", [
    {"text": MARKED},
    {"text": TEXT, "head": [4, 9], "tail": [21, 27]},
    {"text": TEXT, "head": {"start": 4, "end": 9}, "tail": {"begin": 21, "end": 27, "text": "cradle"}},
    {"text": TEXT, "head": "child", "tail": {"name": "cradle"}},
    {"text": TEXT, "head": {"name": "child", "pos": [4, 9]}, "tail": [21, 27]},
])  # fmt: skip
def test_all_ways_to_tell_entities_end_in_one(columns: dict[str, object]) -> None:
    assert marked_text(row(**columns)) == MARKED


@pytest.mark.parametrize("columns", [
    {"head": [1, 2], "tail": [5, 6]},
    {"head": ["child", "Q1", [[1, 2]]], "tail": ["cradle", "Q2", [[5, 6]]]},
    {"head": {"start": 1, "end": 2}, "tail": {"pos": [5, 6], "name": "cradle"}},
    {"head": "child", "tail": "cradle"},
])  # fmt: skip
def test_places_in_tokens(columns: dict[str, object]) -> None:
    assert marked_text(row(tokens=TOKENS, **columns)) == "The <e1>child</e1> sat in the <e2>cradle</e2> ."


def test_chinese_tokens_have_no_blanks_between_them() -> None:
    assert joined_tokens([*"小林在", "IBM", "A", "工", "作"]) == ("小林在 IBM A 工作", [0, 1, 2, 4, 8, 10, 11])
    found = marked_text(row(tokens=list("小林在大学工作"), head=[0, 2], tail=[3, 5]))
    assert found == "<e1>小林</e1>在<e2>大学</e2>工作"


def test_the_tail_may_stand_first_and_next_to_the_head() -> None:
    assert marked_text(row(text="ab", head=[1, 2], tail=[0, 1])) == "<e2>a</e2><e1>b</e1>"


def test_marks_come_off_again() -> None:
    plain, entities = unmarked("a <e2>b</e2> <e1>c d</e1>")
    assert plain == "a b c d"
    assert entities == {"head": {"text": "c d", "start": 4, "end": 7}, "tail": {"text": "b", "start": 2, "end": 3}}


@pytest.mark.parametrize(("columns", "reason"), [
    ({"text": "a <e1>b</e1> c"}, "no <e2> in the text"),
    ({"text": "<e1>a</e1> <e2>b"}, "no </e2> in the text"),
    ({"text": "<e1>a</e1> <e1>b</e1> <e2>c</e2>"}, "<e1> stands 2 times"),
    ({"text": "<e1>a <e2>b</e2></e1>"}, "<e1> and <e2> stand in each other"),
    ({"text": "<e1>a <e2>b</e1> c</e2>"}, "<e1> and <e2> stand in each other"),
    ({"text": "<e1> </e1> <e2>c</e2>"}, "nothing between <e1> and </e1>"),
    ({"text": "</e1>a<e1> <e2>c</e2>"}, "</e1> stands before <e1>"),
    ({"text": TEXT, "head": "child"}, "no tail"),
    ({"text": TEXT, "head": "chair", "tail": "cradle"}, "the head 'chair' is not in the text"),
    ({"text": TEXT, "head": "the", "tail": "t"}, "stands 2 times in the text"),
    ({"text": TEXT, "head": [4, 90], "tail": [21, 27]}, "is not within the text, which has 28 characters"),
    ({"text": TEXT, "head": [9, 10], "tail": [21, 27]}, "the head at 9 to 10 is empty"),
    ({"text": TEXT, "head": [4, 9], "tail": [6, 12]}, "lie over each other"),
    ({"text": TEXT, "head": {"text": "child", "start": 5, "end": 9}, "tail": [21, 27]}, "there is 'hild'"),
    ({"text": TEXT, "head": 4, "tail": 21}, "the head is 4: no text, and no [start, end]"),
    ({"text": MARKED, "head": "child", "tail": "cradle"}, "the text has <e1> of its own"),
    ({"tokens": TOKENS, "head": [1, 9], "tail": [5, 6]}, "is not within the 7 tokens"),
])  # fmt: skip
def test_entities_that_can_not_be_told_have_a_reason(columns: dict[str, object], reason: str) -> None:
    with pytest.raises(BadValue) as error:
        check_pair(row(**columns))
    assert reason in str(error.value)

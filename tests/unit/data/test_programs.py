"""Prompts and answers become whole programs; tests of any form are read; what is wrong has its reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmtune.data.forms import programs
from llmtune.data.forms.programs import FILL, assembled, check_tests, cut_at, extracted, fault_of, is_begun
from llmtune.data.forms.values import BadValue

ASKED = 'def add(a, b):\n    """The sum of both."""\n'
WHOLE = "def add(a, b):\n    return a + b\n"


@pytest.mark.parametrize(
    ("prompt", "begun"),
    [
        (ASKED, True), ("def add(a, b):\n", True), ("def add(a, b):", True), ("class A:\n    def f(self):\n", True),
        ("import math\n", True), ("x = [1, 2]\n", True), ("if x:\n    for y in x:", False),
        ("Write a function to add two numbers.", False), ("sort", False), ("写一个函数。", False), ("", False),
        ("return", False), ("add(1, 2)", False), ("def def", False),
    ],
)  # fmt: skip
def test_a_begun_program_is_told_from_a_sentence(prompt: str, begun: bool) -> None:
    assert is_begun(prompt) is begun


def test_an_answer_goes_on_or_is_the_program_or_begins_anew() -> None:
    assert assembled(ASKED, "    return a + b\n") == ASKED + "    return a + b\n"
    assert assembled("Add two numbers.", WHOLE) == WHOLE
    anew = assembled("import math\n" + ASKED, WHOLE, entry_point="add")
    assert anew.startswith("import math\n")
    assert anew.endswith(WHOLE)
    assert fault_of(anew) is None
    assert assembled("def add(a, b):\n", WHOLE, entry_point="add") == WHOLE  # with the prompt it would not parse
    assert assembled(f"def add(a, b):\n    return {FILL}\n", "a + b") == WHOLE
    assert assembled("Add.", WHOLE.replace("\n", "\r\n")) == WHOLE


def test_the_program_is_taken_out_of_a_chat() -> None:
    said = f"Sure! Use it so:\n```python\nprint(add(1, 2))\n```\nHere it is:\n```python\n{WHOLE}```\nGood luck!"
    assert extracted(said, "add") == WHOLE
    assert extracted(said) == "print(add(1, 2))\n"
    assert extracted(f"```\n{WHOLE}") == WHOLE  # cut off before its end
    assert extracted(WHOLE) == WHOLE
    assert extracted("```json\n{}\n```") == "```json\n{}\n```"
    assert assembled("Add two numbers.", said, entry_point="add") == WHOLE
    assert assembled(ASKED, said, entry_point="add").endswith(WHOLE)


def test_what_is_written_behind_a_function_is_cut_off_where_code_goes_on() -> None:
    stops = ["\ndef ", "\nclass ", "\n#"]
    more = "    return a + b\n\ndef other():\n    pass\n"
    assert assembled(ASKED, more, stops) == ASKED + "    return a + b\n"
    assert assembled("Add two numbers.", WHOLE + "\ndef other():\n    pass\n", stops).count("def") == 2
    assert cut_at("a\n# b\ndef c", stops) == "a"
    assert cut_at("a", []) == "a"


def test_whatever_is_written_is_judged_and_nothing_is_run() -> None:
    assert fault_of("x = 1") is None
    assert fault_of("def f(:") == "invalid syntax (line 1)"
    for odd in ("x = '\0'", "(" * 5000, "-" * 100_000 + "1", "x = '\\d'\n  y"):
        assert fault_of(odd)
    assert fault_of("x = '\\d'") is None  # a warning of Python's, which is none here


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["assert f(1) == 1", "assert f(2) == 2"], "assert f(1) == 1\nassert f(2) == 2"),
        ("def check(f):\r\n    assert f(1)", "def check(f):\n    assert f(1)"),
        (["import math", ["assert f(1)", ""]], "import math\nassert f(1)"),
        (["", None], None), ([], None),
    ],
)  # fmt: skip
def test_tests_of_any_form_are_one_source(given: Any, read: str | None) -> None:
    assert programs.tests_of(json.dumps(given)) == read


def test_rows_without_tests_have_none() -> None:
    assert programs.tests_of(None) is None
    check_tests({"tests": None, "entry_point": None})


@pytest.mark.parametrize(
    ("tests", "entry_point", "reason"),
    [
        (["assert f(1) = 2"], None, r"the tests don't parse: .* \(line 1\)"),
        ([{"input": 1}], None, "the tests hold a dict"),
        ("def check(candidate):\n    pass", None, "no entry point names the function"),
        ("x = 1\ndef helper():\n    assert f(1)", None, "the tests assert nothing and call nothing"),
        ("class T:\n    def helper(self):\n        assert f(1)", None, "any program would pass"),
        ("# to be written", "f", "the tests assert nothing"),
        ("assert f(1)", "f(x)", "'f\\(x\\)' is no name of a function"),
    ],
)
def test_tests_that_can_not_be_run_say_why(tests: Any, entry_point: str | None, reason: str) -> None:
    with pytest.raises(BadValue, match=reason):
        check_tests({"tests": json.dumps(tests), "entry_point": entry_point})


@pytest.mark.parametrize(
    "tests",
    [
        "assert f(1)", "f(1)", "for x in range(3):\n    assert f(x)", "if __name__ == '__main__':\n    assert f(1)",
        "def test_f(x=1):\n    assert f(x)", "async def test_f():\n    assert f(1)",
        "class T:\n    def test_f(self):\n        assert f(1)", "def check(f=f):\n    assert f(1)",
    ],
)  # fmt: skip
def test_tests_of_every_form_try_something(tests: str) -> None:
    check_tests({"tests": json.dumps(tests), "entry_point": "f"})

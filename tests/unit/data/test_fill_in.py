"""Programs with a gap: a function of their text alone, and whole again when the gap is filled."""

from __future__ import annotations

import json
from typing import Any

import datasets
import pytest

from llmtune.data.forms.programs import FILL, assembled
from llmtune.data.text.fill_in import gap_ids, is_suffix_first, with_gap, with_gaps

PROGRAMS = [f"def add_{n}(x):\n    return x + {n}\n" for n in range(200)]


def table(**more: Any) -> Any:
    prompts = [program.splitlines(keepends=True)[0] for program in PROGRAMS]
    answers = [json.dumps([program.splitlines(keepends=True)[1]]) for program in PROGRAMS]
    tests = [json.dumps(["assert True"])] * len(PROGRAMS)
    columns = {"prompt": prompts, "response": answers, "tests": tests, "file": ["a"] * 200, "line": list(range(200))}
    return datasets.Dataset.from_dict({**columns, **more})


def test_a_gap_is_filled_by_what_was_taken_out() -> None:
    for program in PROGRAMS:
        prompt, middle = with_gap(program)
        assert middle
        assert assembled(prompt, middle) == program
        assert with_gap(program) == (prompt, middle)
    assert len({with_gap(program)[1] for program in PROGRAMS}) > 100


def test_a_share_of_the_rows_get_one_always_the_same() -> None:
    rows = with_gaps(table(), 0.5)
    gaps = [FILL in prompt for prompt in rows["prompt"]]
    assert 70 < sum(gaps) < 130
    assert [FILL in prompt for prompt in with_gaps(table(), 0.5)["prompt"]] == gaps
    told = zip(PROGRAMS, rows["prompt"], rows["response"], rows["tests"], gaps)
    for program, prompt, response, tests, has_gap in told:
        assert assembled(prompt, json.loads(response)[0]) == program
        assert (tests is None) is has_gap
    assert rows["line"] == table()["line"]
    assert not any(FILL in prompt for prompt in with_gaps(table(), 0.0)["prompt"])
    assert all(FILL in prompt for prompt in with_gaps(table(), 1.0)["prompt"])


def test_rows_that_have_a_gap_or_no_answer_stay_as_they_are() -> None:
    rows = table(prompt=[f"a{FILL}b"] * 200)
    assert with_gaps(rows, 1.0)["response"] == rows["response"]
    assert with_gaps(table(response=[None] * 200), 1.0)["prompt"] == table()["prompt"]


@pytest.mark.parametrize(("form", "low", "high"), [("psm", 0, 0), ("spm", 200, 200), ("both", 70, 130)])
def test_the_order_is_settled_by_the_text(form: str, low: int, high: int) -> None:
    assert low <= sum(is_suffix_first(program, form) for program in PROGRAMS) <= high


def test_prefix_suffix_and_middle_in_both_orders() -> None:
    tokens = {"prefix": 1, "suffix": 2, "middle": 3}
    assert gap_ids(tokens, ([10, 11], [20]), False) == [1, 10, 11, 2, 20, 3]
    assert gap_ids(tokens, ([10, 11], [20]), True) == [1, 2, 20, 3, 10, 11]

"""pass@k is the share of all draws of k programs that hold one which passed."""

from __future__ import annotations

import itertools

import pytest

from llmtune.scoring.pass_at_k import pass_at_k


def test_it_is_what_counting_all_draws_gives() -> None:
    for num_programs in range(1, 8):
        for num_passed in range(num_programs + 1):
            passed = [place < num_passed for place in range(num_programs)]
            for k in range(1, num_programs + 1):
                draws = [any(draw) for draw in itertools.combinations(passed, k)]
                assert pass_at_k(num_programs, num_passed, k) == pytest.approx(sum(draws) / len(draws))


def test_of_many_programs_it_stays_exact() -> None:
    assert pass_at_k(200, 3, 1) == pytest.approx(3 / 200)
    assert pass_at_k(200, 0, 100) == 0.0
    assert pass_at_k(200, 101, 100) == 1.0


def test_more_programs_than_there_are_can_not_be_drawn() -> None:
    with pytest.raises(ValueError, match="pass@5 of 3 programs"):
        pass_at_k(3, 1, 5)

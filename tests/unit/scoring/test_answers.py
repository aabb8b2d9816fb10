"""Scores of question answering on cases worked out by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest

from llmtune.scoring.answer_text import best_of, compared, longest_run, segments, words
from llmtune.scoring.answers import METRICS, AnswerScores, best_threshold


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The  Great Yuan.", ["great", "yuan"]),
        ("an Apple a day", ["apple", "day"]),
        ("U.S.", ["us"]),
        ("theatre", ["theatre"]),
        ("Die Brücke", ["die", "brücke"]),
        ("...", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("4分钟", ["4", "分", "钟"]),
        ("由韩国Nexon开发。", ["由", "韩", "国", "nexon", "开", "发"]),
        ("《踢爆》", ["踢", "爆"]),
        ("3.5 公里", ["35", "公", "里"]),
        ("ラーメン", ["ラ", "ー", "メ", "ン"]),
        ("กข", ["ก", "ข"]),
    ],
)
def test_segments(text: str, found: list[str]) -> None:
    assert segments(text) == found


@pytest.mark.parametrize(
    ("prediction", "gold", "exact", "f1"),
    [
        ("the Great Yuan", "Great Yuan", 1, 1),
        ("in the 10th century", "10th century", 0, 4 / 5),
        ("Rome", "Paris", 0, 0),
        ("the the", "a", 1, 1),  # articles alone: both are empty
        ("big big cat", "big cat cat", 0, 2 * 2 / 6),
        ("", "Paris", 0, 0),
        ("", "", 1, 1),
        ("韩国Nexon", "由韩国Nexon开发", 0, 2 * 3 / (3 + 6)),
        ("踢爆。", "踢爆", 1, 1),
        ("北京大学", "大学北京", 0, 2 * 2 / 8),  # the longest run, not the bag
        ("由Nexon", "Nexon", 0, 2 * 1 / 3),
    ],
)
def test_compared(prediction: str, gold: str, exact: float, f1: float) -> None:
    assert compared(prediction, gold) == (exact, pytest.approx(f1))


def test_the_best_gold_answer_counts() -> None:
    assert best_of("10th century", ["the 10th and 11th centuries", "10th century"]) == (1, 1)
    exact, f1 = best_of("10th", ["the 10th century", "11th"])
    assert (exact, f1) == (0, pytest.approx(2 / 3))
    assert best_of("", []) == (1, 1)
    assert best_of("something", []) == (0, 0)


def test_longest_run() -> None:
    assert longest_run("abcde", "xbcdy") == 3
    assert longest_run("abc", "") == 0


def test_scores_without_unanswerable_questions() -> None:
    scores = AnswerScores()
    scores.add("Paris", ["Paris"], -5.0)
    scores.add("big cat", ["cat"], 3.0)
    assert scores.scores(float("inf")) == {"f1": pytest.approx((1 + 2 / 3) / 2), "em": 0.5}
    # of a model that may say "no answer"
    found = scores.scores(0.0)
    assert found == {"f1": 0.5, "em": 0.5, "threshold": 0.0, "span_f1": pytest.approx(5 / 6), "span_em": 0.5}


def test_scores_with_unanswerable_questions() -> None:
    scores = AnswerScores()
    scores.add("Paris", ["Paris"], -5.0)  # right
    scores.add("big cat", ["cat"], 1.0)  # withheld at threshold 0
    scores.add("Rome", [], 2.0)  # rightly withheld
    scores.add("Bonn", [], -1.0)  # answered, wrongly
    found = scores.scores(0.0)
    assert found["f1"] == found["em"] == 0.5
    assert found["has_answer_f1"] == 0.5
    assert found["no_answer_accuracy"] == 0.5
    assert found["always_unanswerable"] == 0.5
    assert found["best_em"] == 0.75
    assert -5 < found["best_em_threshold"] < -1
    # letting the cat answer costs Bonn: -1 + 2/3
    assert found["best_f1"] == 0.75
    assert found["best_f1_threshold"] == found["best_em_threshold"]
    assert scores.scores(found["best_f1_threshold"])["f1"] == found["best_f1"]
    assert set(METRICS) - {"loss"} <= set(found)


def test_only_unanswerable_questions() -> None:
    scores = AnswerScores()
    scores.add("Rome", [], 2.0)
    scores.add("Bonn", [], 3.0)
    found = scores.scores(0.0)
    assert found["f1"] == found["best_f1"] == found["always_unanswerable"] == 1
    assert found["best_f1_threshold"] < 2
    assert "has_answer_f1" not in found


def test_best_threshold_is_the_best_of_all() -> None:
    rng = random.Random(3)
    for _ in range(200):
        size = rng.randint(1, 8)
        difference_N = np.array([rng.choice([-1.0, 0.0, 0.5, 2.0]) for _ in range(size)])  # many are equal
        answerable_N = np.array([rng.random() < 0.6 for _ in range(size)])
        right_N = np.array([rng.choice([0.0, 0.4, 1.0]) for _ in range(size)]) * answerable_N

        best, threshold = best_threshold(right_N, difference_N, answerable_N)
        reached = [
            float(np.where(answerable_N, right_N * (difference_N <= tried), difference_N > tried).mean())
            for tried in (-9.0, *difference_N, threshold)
        ]
        assert best == pytest.approx(max(reached))
        assert reached[-1] == pytest.approx(best)

"""The number that says what weights are best: of the run's task, or the mean of those of all tasks."""

from __future__ import annotations

import pytest

from llmtune.training.deciding import Deciding

OTHERS = {"auxiliary/nli": "accuracy", "auxiliary/words": "f1"}
BESIDE = {"auxiliary/nli": {"accuracy": 0.6, "loss": 1.0}, "auxiliary/words": {"f1": 0.9, "loss": 0.1}}


def test_the_task_decides_by_its_own_metric() -> None:
    deciding = Deciding("accuracy", "max", OTHERS)
    assert deciding.metric == "accuracy"
    assert deciding.score({"accuracy": 0.3}, BESIDE) == 0.3
    assert deciding.told({"accuracy": 0.3}, BESIDE) == {"accuracy": 0.3}
    assert deciding.named == {"task": "accuracy", "nli": "accuracy", "words": "f1"}


def test_the_mean_is_of_each_tasks_own_metric() -> None:
    deciding = Deciding("accuracy", "max", OTHERS, by_mean=True)
    assert deciding.metric == "mean_score"
    assert deciding.score({"accuracy": 0.3}, BESIDE) == pytest.approx(0.6)
    assert deciding.told({"accuracy": 0.3}, BESIDE)["mean_score"] == pytest.approx(0.6)


def test_there_is_no_mean_while_a_score_is_not_defined() -> None:
    deciding = Deciding("accuracy", "max", OTHERS, by_mean=True)
    for broken in ({}, {"f1": float("nan")}):
        assert deciding.score({"accuracy": 0.3}, {**BESIDE, "auxiliary/words": broken}) is None
        assert "mean_score" not in deciding.told({"accuracy": 0.3}, {**BESIDE, "auxiliary/words": broken})
    assert Deciding("spearman", "max").score({"spearman": float("nan")}, {}) is None

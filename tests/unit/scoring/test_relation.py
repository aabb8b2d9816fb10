"""Scores of relations: by hand, against scikit-learn, and by the rules of SemEval-2010 task 8."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from llmtune.scoring.relation import f1_macro_official, relation_of, score

NAMES = ("Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Member-Collection(e1,e2)", "Other")


def test_directions_of_a_relation_are_one_class_of_the_official_score() -> None:
    gold = np.array([0, 0, 1, 2, 2, 3, 3])
    said = np.array([0, 1, 1, 2, 3, 0, 3])
    # Cause-Effect: of 3 rows 2 are right, one has the wrong direction; 4 were taken for it: P 2/4, R 2/3, F1 4/7.
    # Member-Collection: P 1/1, R 1/2, F1 2/3. Other is no relation, but the row of it that was taken for one counts.
    assert f1_macro_official(said, gold, NAMES, "Other") == pytest.approx((4 / 7 + 2 / 3) / 2)
    with_other = (4 / 7 + 2 / 3 + 2 * 1 / 4) / 3
    assert f1_macro_official(said, gold, NAMES, None) == pytest.approx(with_other)


def test_a_wrong_direction_counts_as_wrong() -> None:
    gold = np.array([0, 1])
    assert f1_macro_official(np.array([1, 0]), gold, NAMES[:2], None) == 0.0
    assert f1_macro_official(gold, gold, NAMES[:2], None) == 1.0


def test_relations_without_rows_count_as_0_in_the_official_score() -> None:
    ones = np.zeros(3, dtype=int)
    assert f1_macro_official(ones, ones, NAMES, "Other") == pytest.approx(1 / 2)


def test_scores_without_other_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    gold, said = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    found = score(said, gold, NAMES, "Other")
    for average in ("micro", "macro"):
        theirs = f1_score(gold, said, labels=[0, 1, 2], average=average)
        assert found[f"f1_{average}_relations"] == pytest.approx(theirs)
    plain = score(said, gold, ("a", "b", "c", "d"), None)
    assert plain["f1_macro_official"] == pytest.approx(f1_score(gold, said, average="macro"))


def test_all_rows_of_other() -> None:
    others = np.full(4, 3)
    assert score(others, others, NAMES, "Other") == {
        "f1_macro_official": 0.0, "f1_micro_relations": 0.0, "f1_macro_relations": 0.0
    }  # fmt: skip


def test_directions_come_off_a_name() -> None:
    assert relation_of("Entity-Origin(e2, e1)") == "Entity-Origin"
    assert relation_of("per:children(e1)") == "per:children(e1)"

"""Confusion, per-class table and worst rows against numbers counted by hand and by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from llmtune.scoring import breakdown as b
from llmtune.scoring import classification
from llmtune.scoring.classification import confusion_matrix

NAMES = ["a", "b", "c"]


def blocks(logits_NC, targets, size=2):
    """Rows in blocks of two, as evaluations give them."""
    def parts():
        for start in range(0, len(targets), size):
            yield logits_NC[start : start + size], targets[start : start + size]

    return parts


def logits(chances):
    return np.log(np.asarray(chances, dtype=np.float64))


def test_confusion_matrix_has_a_row_for_each_gold_class():
    found = confusion_matrix(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 2]), 3)
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_class_table_agrees_with_sklearn():
    rng = np.random.default_rng(0)
    targets, raw = rng.integers(0, 3, 200), rng.normal(size=(200, 3))
    report = b.breakdown("single_label", blocks(raw, targets, 7), NAMES)
    wanted = metrics.precision_recall_fscore_support(targets, raw.argmax(1), labels=[0, 1, 2])
    for c, row in enumerate(report["classes"]):
        assert [row["precision"], row["recall"], row["f1"]] == pytest.approx([part[c] for part in wanted[:3]])
        assert row["rows"] == wanted[3][c]
    assert np.array_equal(report["confusion"]["counts"], metrics.confusion_matrix(targets, raw.argmax(1)))


def test_class_that_never_comes_counts_as_zero():
    (row,) = b.class_table(*np.zeros((3, 1), dtype=int), ["a"])
    assert (row["precision"], row["recall"], row["f1"], row["rows"]) == (0, 0, 0, 0)


def test_most_confused_pairs_come_by_their_rows_without_the_right_ones():
    pairs = b.most_confused(np.array([[9, 1, 0], [4, 9, 0], [0, 2, 9]]), NAMES)
    assert [(pair["gold"], pair["predicted"], pair["rows"]) for pair in pairs] == [
        ("b", "a", 4), ("c", "b", 2), ("a", "b", 1)
    ]  # fmt: skip


def test_worst_rows_of_single_labels_are_the_surest_mistakes():
    raw = logits([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    assert b.worst_rows("single_label", blocks(raw, np.array([1, 1, 1, 1])), 5) == [0, 3, 1]
    assert b.worst_rows("single_label", blocks(raw, np.array([1, 1, 1, 1])), 2) == [0, 3]


def test_worst_rows_of_a_regression_are_the_largest_distances_and_leave_out_hits():
    assert b.worst_rows("regression", blocks(np.array([[1.0], [5.0], [2.0]]), np.array([1.0, 2.0, 4.0])), 5) == [1, 2]


def test_worst_rows_of_several_labels_are_wrong_at_the_threshold():
    raw = np.array([[3.0, -3.0], [0.1, -3.0], [-3.0, 3.0]])
    truth = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert b.worst_rows("multi_label", blocks(raw, truth), 5) == [2, 1]
    assert b.worst_rows("multi_label", blocks(raw, truth), 5, threshold=0.6) == [2]


def test_multi_label_table_uses_the_threshold():
    raw = np.array([[3.0, 0.1], [0.1, -3.0]])
    found = b.breakdown("multi_label", blocks(raw, np.array([[1.0, 1.0], [0.0, 0.0]])), ["a", "b"], threshold=0.6)
    assert [(row["precision"], row["recall"]) for row in found["classes"]] == [(1, 1), (0, 0)]


def test_residuals_tell_the_direction():
    found = b.residuals(np.array([2.0, 3.0]), np.array([1.0, 1.0]))
    assert found == {"mean": 1.5, "p50": 1.5, "p90": pytest.approx(1.9), "max": 2.0}


@pytest.mark.parametrize("classes", [2, 5])
def test_scores_of_blocks_are_those_that_sklearn_gives_for_all_rows_at_once(classes, monkeypatch):
    monkeypatch.setattr(classification, "CURVE_NUMBERS", 450)  # so that classes take several passes
    rng = np.random.default_rng(classes)
    targets, raw = rng.integers(0, classes, 201), rng.normal(size=(201, classes))
    found, given = classification.score("single_label", blocks(raw, targets, 17)), raw.argmax(1)
    chances = classification.probabilities("single_label", raw)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(targets, given))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(targets, given, average="macro"))
    assert found["recall_macro"] == pytest.approx(metrics.recall_score(targets, given, average="macro"))
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(targets, given))
    wanted = (
        metrics.roc_auc_score(targets, chances[:, 1]) if classes == 2
        else metrics.roc_auc_score(targets, chances, multi_class="ovr", average="macro")
    )  # fmt: skip
    assert found["roc_auc"] == pytest.approx(wanted)


def test_scores_of_several_labels_in_blocks_are_those_of_sklearn():
    rng = np.random.default_rng(0)
    truth, raw = rng.integers(0, 2, (90, 4)).astype(float), rng.normal(size=(90, 4))
    found = classification.score("multi_label", blocks(raw, truth, 8))
    given = classification.probabilities("multi_label", raw) >= 0.5
    for name in ("micro", "macro", "samples"):
        assert found[f"f1_{name}"] == pytest.approx(metrics.f1_score(truth, given, average=name, zero_division=0))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, given))
    assert found["pr_auc"] == pytest.approx(metrics.average_precision_score(truth, raw, average="macro"))

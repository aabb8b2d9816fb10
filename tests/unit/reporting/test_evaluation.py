"""An evaluation on the screen: few classes as a matrix, many as pairs, texts as they are."""

from __future__ import annotations

import numpy as np

from llmtune.reporting.evaluation import show
from llmtune.scoring.breakdown import breakdown


def report(num_classes: int) -> dict:
    rng = np.random.default_rng(0)
    names = [f"class{i}" for i in range(num_classes)]
    rows = (rng.normal(size=(300, num_classes)), rng.integers(0, num_classes, 300))
    parts = breakdown("single_label", lambda: [rows], names)
    worst = [{"file": "in.csv", "line": 3, "gold": "class0", "predicted": "class1", "probability": 0.91,
              "text": "[bold]not markup[/bold] :smile:\nsecond line " + "x" * 300}]  # fmt: skip
    return {"rows": 300, "data": "in.csv", "seconds": 1.0, "remarks": ["2 row(s) dropped"], "scores": {"accuracy": 0.5},
            "worst": worst, **parts}  # fmt: skip


def test_few_classes_are_a_matrix_and_texts_are_no_markup(capsys):
    show(report(3), num_worst=5)
    said = capsys.readouterr().out
    assert "gold \\ predicted" in said
    assert "[bold]not markup[/bold] :smile: second line xxx" in said
    assert "gold class0, predicted class1 (0.910)  [in.csv:3]" in said
    assert "2 row(s) dropped" in said
    assert "x" * 250 not in said


def test_many_classes_are_their_most_confused_pairs_and_the_lowest_scores(capsys):
    show(report(40), num_worst=5)
    said = capsys.readouterr().out
    assert "most confused: gold" in said
    assert "the 30 of 40 classes with the lowest F1" in said
    assert max(map(len, said.splitlines())) < 250


def test_labels_of_several_are_shown_with_their_probabilities(capsys):
    labels = {"gold": [], "predicted": ["a", "b"], "probabilities": {"a": 0.9, "b": 0.6}}
    show({**report(2), "worst": [{"file": "f", "line": 1, "text": "t", **labels}]}, num_worst=5)
    assert "gold none, predicted a (0.900), b (0.600)  [f:1]" in capsys.readouterr().out

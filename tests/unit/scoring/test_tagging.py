"""Scores of entities against seqeval, of tags against scikit-learn; which mistakes belong together."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sklearn import metrics

from llmtune.data.tagging.schemes import SCHEMES, read_entities, tag_names
from llmtune.scoring.tagging import INVENTED, METRICS, MISSED, OTHER_ENDS, EntityCounts, TagCounts


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
def test_entities_as_seqeval_scores_them(scheme: str) -> None:
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    rng = random.Random(0)
    names = tag_names(["X", "Y", "Z"], SCHEMES[scheme])
    rows = [rng.choices(names, k=rng.randint(1, 12)) for _ in range(300)]
    given = [[tag if rng.random() < 0.8 else rng.choice(names) for tag in tags] for tags in rows]
    counts = EntityCounts()
    for gold, predicted in zip(rows, given):
        counts.add(read_entities(gold, SCHEMES[scheme]), read_entities(predicted, SCHEMES[scheme]))
    found = counts.scores()
    assert found.keys() | {"loss"} == METRICS["entities"].keys()
    for average, ending in (("micro", ""), ("macro", "_macro")):
        wanted = precision_recall_fscore_support(rows, given, average=average)[:3]
        assert [found[f"{key}{ending}"] for key in ("precision", "recall", "f1")] == pytest.approx(wanted)
    by_type = precision_recall_fscore_support(rows, given, average=None)
    for place, row in enumerate(counts.table()):
        found_here = [row["precision"], row["recall"], row["f1"], row["rows"]]
        assert found_here == pytest.approx([each[place] for each in by_type])
    assert found["rows_right"] == np.mean([
        read_entities(gold, SCHEMES[scheme]) == read_entities(predicted, SCHEMES[scheme])
        for gold, predicted in zip(rows, given)
    ])  # fmt: skip


def test_which_mistakes_belong_together() -> None:
    counts = EntityCounts()
    gold = [(0, 2, "X"), (3, 5, "X"), (6, 7, "Y"), (8, 9, "Y")]
    wrong = counts.add(gold, [(0, 2, "Y"), (3, 4, "X"), (6, 7, "Y"), (10, 11, "X")])
    assert wrong == 6
    pairs = {(pair["gold"], pair["predicted"]): pair["rows"] for pair in counts.most_confused()}
    assert pairs == {("X", "Y"): 1, ("X", OTHER_ENDS): 1, ("Y", MISSED): 1, (INVENTED, "X"): 1}


def test_nothing_to_find_is_no_division_by_zero() -> None:
    counts = EntityCounts()
    counts.add([], [])
    assert counts.scores()["f1"] == 0.0
    assert counts.scores()["rows_right"] == 1.0


def test_tags() -> None:
    rng = np.random.default_rng(0)
    counts = TagCounts(["A", "B", "C", "never"])
    gold, given = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    for start in range(0, 200, 10):
        counts.add(gold[start : start + 10], given[start : start + 10])
    found = counts.scores()
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(gold, given))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(gold, given, average="macro"))
    assert found.keys() | {"loss"} == METRICS["tags"].keys()
    assert counts.most_confused()[0]["rows"] == max(
        int(np.sum((gold == a) & (given == b))) for a in range(3) for b in range(3) if a != b
    )

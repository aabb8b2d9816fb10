"""Labels: what kind of problem they say, and ids that depend on names alone."""

from __future__ import annotations

import random

import pytest

from llmtune.data.labels import LabelTable, build_table, label_lists, label_splits, problem_type, read_label_names


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["0", "1"], "single_label"),
        (["0.0", "1.0", "2.0"], "single_label"),
        (["no", "yes"], "single_label"),
        (["1", "2", "x", "0.5"], "single_label"),
        (["0", "0.5"], "regression"),
        ([str(i) for i in range(31)], "regression"),
        ([str(i) for i in range(30)], "single_label"),
        ([f"intent {i}" for i in range(77)], "single_label"),
        ([["a"], ["a", "b"]], "multi_label"),
        ([[], ["a"]], "multi_label"),
    ],
)
def test_problem_type_is_read_off_the_labels(labels, kind):
    assert problem_type(labels) == kind


def test_label_lists_split_strip_and_drop_repeats():
    assert label_lists(['"b, a,b"', '"c"', '"b, a,b"'], ",") == [["b", "a"], ["c"], ["b", "a"]]
    assert label_lists(['"a,b"', '["x", "x"]']) == ["a,b", ["x"]]


def test_table_does_not_depend_on_the_order_of_rows():
    labels = ["10", "9", "1", "1.5", "b", "a"] * 3
    expected = ("1", "1.5", "9", "10", "a", "b")
    for seed in range(5):
        random.Random(seed).shuffle(labels)
        assert build_table(labels).names == expected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["0", "2"], {"0": 0, "1": 1, "2": 2}),
        (["1", "2", "3"], {"1": 0, "2": 1, "3": 2}),
        (["1", "2"], {"0": 0, "1": 1, "2": 2}),
        (["red", "blue"], {}),
    ],
)
def test_label_names_may_stand_for_numbers(labels, expected):
    table = build_table(labels, ["red", "green", "blue"])
    assert table.names == ("red", "green", "blue")
    assert table.ids == {"red": 0, "green": 1, "blue": 2, **expected}


def test_label_names_from_a_file(write):
    assert read_label_names(write("names.txt", "\ufeffWorld\r\nSci/Tech\r\n")) == ["World", "Sci/Tech"]
    assert read_label_names(write("names.json", '["a", "b"]')) == ["a", "b"]


def test_table_goes_through_json():
    table = build_table(["1", "2"], ["a", "b"])
    assert LabelTable.from_json(table.to_json()) == table


def test_targets_of_each_kind(write, read):
    def targets(content, **changes):
        return label_splits(read(train=write("a.csv", "text,label\n" + content)), **changes)

    single = targets("x,yes\ny,no\nz,yes\n")
    assert (single.problem_type, single.targets["train"]) == ("single_label", [1, 0, 1])
    assert single.report["train"]["counts"] == {"no": 1, "yes": 2}
    several = targets("x,b|a\ny,a\n", delimiter="|")
    assert (several.problem_type, several.targets["train"]) == ("multi_label", [[0, 1], [0]])
    numbers = targets("x,0.5\ny,4\n")
    assert (numbers.problem_type, numbers.targets["train"], numbers.table) == ("regression", [0.5, 4.0], None)
    assert numbers.report["train"] == {"min": 0.5, "mean": 2.25, "max": 4.0, "distinct": 2}
    forced = targets("x,1\ny,2\n", problem="multi_label")
    assert forced.targets["train"] == [[0], [1]]


def test_rare_and_missing_classes_are_warned_of(write, read):
    raw = read(train=write("a.csv", "text,label\nx,a\ny,b\nz,b\n"))
    labelled = label_splits(raw, label_names=["a", "b", "c"])
    assert labelled.warnings == ["train: no row of 1 class(es): c", "train: only one row of 1 class(es): a"]


def test_rows_for_a_trained_model_use_its_table(write, read):
    table = LabelTable(("neg", "pos"), {"neg": 0, "pos": 1, "0": 0, "1": 1})
    raw = read(test=write("t.csv", "text,label\nx,1\ny,1\n"), only=["test"])
    assert label_splits(raw, table=table, problem="single_label").targets == {"test": [1, 1]}

"""Automatic splits and limits: seeded, stratified, blind to the order of rows, and no text on two sides."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from llmtune.data.splits import allot, strata, text_keys


def sorted_file(write, positive=400, negative=600, name="a.csv", reverse=False):
    lines = [f"good text {i},1" for i in range(positive)] + [f"bad text {i},0" for i in range(negative)]
    return write(name, "text,label\n" + "\n".join(reversed(lines) if reverse else lines) + "\n")


def texts(raw, split):
    return set(raw.splits[split]["text"])


def test_sorted_file_is_split_in_proportion(write, read):
    raw = read(train=sorted_file(write), validation_share=0.1, test_share=0.2)
    counts = {split: Counter(map(json.loads, rows["label"])) for split, rows in raw.splits.items()}
    assert counts == {"train": {"1": 280, "0": 420}, "validation": {"1": 40, "0": 60}, "test": {"1": 80, "0": 120}}
    assert not texts(raw, "train") & (texts(raw, "validation") | texts(raw, "test"))
    assert raw.report["splits"]["test"]["taken_from"] == "train"
    assert raw.report["splits"]["train"]["rows_read"] == 1000


def test_split_depends_on_the_seed_and_not_on_the_order(write, read):
    shares = {"validation_share": 0.1, "test_share": 0.1}
    one = texts(read(train=sorted_file(write), **shares), "validation")
    assert texts(read(train=sorted_file(write, name="b.csv", reverse=True), **shares), "validation") == one
    assert texts(read(train=sorted_file(write), split_seed=1, **shares), "validation") != one


def test_named_splits_stay_whole(write, read):
    raw = read(
        train=sorted_file(write), validation=write("v.csv", "text,label\nx,1\n"), validation_share=0.5, test_share=0.1
    )
    assert {split: len(rows) for split, rows in raw.splits.items()} == {"train": 900, "validation": 1, "test": 100}


def test_repeated_texts_stay_on_one_side(write, read):
    lines = [f"text {i // 4}{'!' * (i % 2)},{i // 4 % 2}" for i in range(400)]
    raw = read(train=write("a.csv", "text,label\n" + "\n".join(lines)), validation_share=0.2)
    assert raw.report["overlap"] == {"train/validation": {"rows": 0, "near_rows": 0}}
    assert len(raw.splits["validation"]) == 80


@pytest.mark.parametrize(("task", "columns", "whole"), [
    ("rerank", "query,passage,label", "text"), ("rerank", "query,passage,label,query_id", "group"),
    ("qa", "question,context,answers", "context"),
])  # fmt: skip
def test_rows_that_belong_together_are_not_parted(task, columns, whole, write, settings):
    from llmtune.data.rows import read_splits
    from llmtune.task.question_answering import QuestionAnsweringTask
    from llmtune.task.ranking import RankingTask

    roles = {"rerank": RankingTask, "qa": QuestionAnsweringTask}[task].roles
    lines = [
        f"what {i // 8}?,passage {i} of text,{i % 2},q{i // 8}" if task == "rerank" else
        f"what {i}?,context {i // 8} of words,words" for i in range(240)
    ]  # fmt: skip
    lines = [",".join(line.split(",")[: columns.count(",") + 1]) for line in lines]
    file = write("a.csv", "\n".join([columns, *lines]) + "\n")
    raw = read_splits(settings(train=file, validation_share=0.2, test_share=0.2), roles)
    parts = [set(rows[whole]) for rows in raw.splits.values()]
    assert len(parts) == 3
    assert not any(one & two for i, one in enumerate(parts) for two in parts[:i])
    assert all(len(rows) == 8 * len(part) for rows, part in zip(raw.splits.values(), parts))


def test_a_class_with_one_row_stays_in_train(write, read):
    content = "text,label\nonly one,rare\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20))
    for seed in range(5):
        raw = read(train=write("a.csv", content), validation_share=0.5, split_seed=seed)
        assert '"rare"' in raw.splits["train"]["label"]
        assert len(raw.splits["validation"]) == 10


def test_limit_draws_from_every_class_in_file_order(write, read):
    raw = read(train=sorted_file(write, positive=5, negative=995), limit=50)
    rows = raw.splits["train"]
    assert len(rows) == 50
    assert set(rows["label"]) == {'"0"', '"1"'}
    assert rows["line"] == sorted(rows["line"])
    assert max(rows["line"]) > 500


def test_duplicates_and_shared_texts_are_counted(write, read):
    raw = read(
        train=write("a.csv", "text,label\nsame,1\nsame ,0\nother,1\nsame,1\n"),
        validation=write("b.csv", "text,label\nsame,1\nnew,0\nOther!,1\n"),
    )
    assert raw.report["splits"]["train"]["duplicates"] == {"rows": 2, "contradicting_texts": 1}
    assert raw.report["overlap"] == {"train/validation": {"rows": 1, "near_rows": 2}}


def test_only_one_split_can_be_read(write, read):
    raw = read(train="not there.csv", test=write("t.csv", "text,label\nx,1\n"), only=["test"])
    assert list(raw.splits) == ["test"]


def test_strata_of_several_labels_follow_the_rarest():
    labels = [json.dumps(["common"])] * 8 + [json.dumps(["common", "rare"])] * 2
    assert Counter(strata(labels).tolist()).most_common() == [(2, 8), (1, 2)]
    assert strata(['"1,2"', '"2"', '"2"'], ",").tolist() == [1, 2, 2]


def test_strata_of_many_numbers_are_tenths():
    assert set(Counter(strata([json.dumps(f"{i / 10}") for i in range(1000)]).tolist()).values()) == {100}


@pytest.mark.parametrize("total", [0, 1, 7, 50, 93, 95])
def test_allot_adds_up_and_keeps_one_back(total):
    sizes = np.array([1, 2, 3, 10, 84])
    counts = allot(sizes, total, spare_one=True)
    assert counts.sum() == total
    assert (counts < sizes).all()
    assert (counts >= 0).all()


def test_text_keys_know_the_same_text_and_the_nearly_same():
    assert text_keys("A good film.") == text_keys(" A good film. ")
    assert text_keys("A good film.")[0] != text_keys("a good film")[0]
    assert text_keys("A good film.")[1] == text_keys("a  good, film")[1]
    assert text_keys(":)")[1] != text_keys(":(")[1]
    assert text_keys("ab", "c")[1] != text_keys("a", "bc")[1]

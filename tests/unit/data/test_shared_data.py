"""Public data sets in the formats their authors chose, read with settings alone (where LLMTUNE_DATA names them)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmtune.core.errors import DataError
from llmtune.data.labels import label_splits

ROOT = Path(os.environ.get("LLMTUNE_DATA", "/nowhere"))
pytestmark = pytest.mark.skipif("LLMTUNE_DATA" not in os.environ, reason="LLMTUNE_DATA does not name the shared data")

PAIR = {"text": 0, "text_pair": 1, "label": 2}
SETS = {
    "sst2_sentence": (("train.tsv", "dev.tsv", "test.tsv"), {}, (6920, 872, 1821), "single_label", 2),
    "sst2_glue": (("train.tsv", "dev.tsv", "test.tsv"), {}, (60614, 6735, 872), "single_label", 2),
    "banking77": (("train.csv", None, "test.csv"), {}, (10003, None, 3080), "single_label", 77),
    "goemotions": (
        ("train_15k.tsv", "dev.tsv", "test.tsv"),
        {"text": 0, "label": 1, "label_delimiter": ",", "label_names": "labels.txt"},
        (15000, 5426, 5427),
        "multi_label",
        28,
    ),
    "stsb": (("stsb-en-train.csv", "stsb-en-dev.csv", "stsb-en-test.csv"), PAIR, (5749, 1500, 1379), "regression", 0),
    "stsb zh": (
        ("stsb-zh-train.csv", "stsb-zh-dev.csv", "stsb-zh-test.csv"),
        PAIR,
        (5749, 1500, 1379),
        "regression",
        0,
    ),
    "movie_reviews": (("train", None, "test"), {}, (240, None, 80), "single_label", 2),
    "ag_news": (("train_10k.tsv", None, "test.tsv"), {}, (10001, None, 7600), "single_label", 4),
    "ag_news official": (
        ("test_official_head1000.csv", None, None),
        {"text": 1, "text_pair": 2, "label": 0, "label_names": "classes.txt"},
        (1000, None, None),
        "single_label",
        4,
    ),
    "waimai_10k": (("waimai_10k.csv", None, None), {}, (11987, None, None), "single_label", 2),
    "rte": (("train.tsv", "dev.tsv", "test.tsv"), {}, (1244, 139, 1384), "single_label", 2),
    "cola": (("train.tsv", "dev.tsv", None), {}, (8551, 516, None), "single_label", 2),
    "thucnews_titles": (
        ("dev.txt", None, "test.txt"),
        {"label_names": "class.txt"},
        (10000, None, 10000),
        "single_label",
        10,
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_public_data_set(read, name):
    files, changes, counts, problem, num_classes = SETS[name]
    folder = ROOT / name.split()[0]
    named = {split: str(folder / file) for split, file in zip(("train", "validation", "test"), files) if file}
    changes = {**changes}
    if "label_names" in changes:
        changes["label_names"] = str(folder / changes["label_names"])
    raw = read(**named, **changes)
    assert {split: len(rows) for split, rows in raw.splits.items()} == {
        split: count for split, count in zip(("train", "validation", "test"), counts) if count
    }
    assert all(not facts["dropped"] for facts in raw.report["splits"].values())
    labelled = label_splits(raw, delimiter=changes.get("label_delimiter"), label_names=changes.get("label_names"))
    assert labelled.problem_type == problem
    assert (len(labelled.table.names) if labelled.table else 0) == num_classes


def test_columns_that_can_not_be_told_are_shown_with_what_to_type(read):
    with pytest.raises(DataError, match=r"name them: data.columns.text=0 data.columns.label=1"):
        read(train=str(ROOT / "goemotions" / "dev.tsv"))


def test_parallel_files_of_multi30k(read) -> None:
    from llmtune.data.roles import SOURCE, TARGET
    from llmtune.task.rewriting_rows import joined, references

    folder = ROOT / "multi30k_en_de"
    raw = read((SOURCE, TARGET), validation=f"{folder}/val.{{en,de}}.gz", only=["validation"])
    rows = raw.splits["validation"]
    assert len(rows) == 1014
    assert joined(rows["source"][0]) == "A group of men are loading cotton onto a truck"
    assert references(rows[TARGET.kept][0]) == ["Eine Gruppe von Männern lädt Baumwolle auf einen Lastwagen"]


def test_several_summaries_of_scitldr(read) -> None:
    from llmtune.data.roles import SOURCE, TARGET
    from llmtune.task.rewriting_rows import references

    raw = read((SOURCE, TARGET), test=str(ROOT / "scitldr" / "test.jsonl"), only=["test"])
    rows = raw.splits["test"]
    assert len(rows) == 618
    assert {len(references(kept)) for kept in rows[TARGET.kept][:]} == {2, 3, 4}

"""Hub data sets: which split serves, class names in place of numbers, and faults; `load_dataset` itself is replaced."""

from __future__ import annotations

import json

import datasets
import pytest

from llmtune.core.errors import DataError
from llmtune.data.roles import LABEL, TEXT
from llmtune.data.rows import read_splits


@pytest.fixture
def hub(monkeypatch):
    """A hub with one data set `somebody/films`; `hub.asked` lists what was asked of it."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})

    def rows(count, first=0):
        columns = {"text": [f"text {first + i}" for i in range(count)], "label": [i % 2 for i in range(count)]}
        return datasets.Dataset.from_dict(columns, features=features)

    found = datasets.DatasetDict({"train": rows(8), "dev": rows(4, 8), "extra": rows(2, 12)})

    class Hub:
        asked: list[tuple] = []  # noqa: RUF012

    def load(*name, download_config):
        Hub.asked.append((*name, download_config.local_files_only))
        if name[0] != "somebody/films":
            raise FileNotFoundError(f"Couldn't find {name[0]}\nmore")
        return found

    monkeypatch.setattr(datasets, "load_dataset", load)
    Hub.asked.clear()
    return Hub


def test_split_is_chosen_by_role_and_labels_have_names(hub, read):
    raw = read(train="somebody/films", validation="hub:somebody/films/large")
    assert {split: len(rows) for split, rows in raw.splits.items()} == {"train": 8, "validation": 4}
    assert json.loads(raw.splits["train"][1]["label"]) == "pos"
    assert raw.splits["validation"][0]["file"] == "somebody/films/large@dev"
    assert hub.asked == [("somebody/films", False), ("somebody/films", "large", False)]


def test_split_can_be_named(hub, read):
    assert len(read(train="somebody/films@extra").splits["train"]) == 2
    with pytest.raises(
        DataError, match=r"has no split 'test'; it has train, dev, extra; data.test=somebody/films@train"
    ):
        read(train="somebody/films", test="somebody/films")


def test_offline_looks_at_the_local_cache_only(hub, settings, folder):
    with pytest.raises(DataError, match=r"data.train: 'no/films' is not in the local cache, and offline=true"):
        read_splits(settings(train="no/films"), (TEXT, LABEL), offline=True)
    assert hub.asked == [("no/films", True)]


def test_missing_data_set_says_so_in_one_line(hub, read):
    with pytest.raises(DataError) as caught:
        read(train="no/films")
    assert str(caught.value).startswith("data.train: 'no/films' can't be loaded from the hub (Couldn't find no/films)")

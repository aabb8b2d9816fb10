"""Folders of config, one-line descriptions, keys with lines and comments, completion."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtune.cli import FROM_SETTINGS, WORDS
from llmtune.config.completion import candidates
from llmtune.config.locate import conf_dir, groups, headline, options, search_dirs
from llmtune.config.shipped import defaults, good_value
from llmtune.config.yaml_keys import read_keys


def test_conf_dir_is_shipped():
    assert (Path(conf_dir()) / "train.yaml").is_file()


def test_search_dirs_lists_each_folder_once(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(conf_dir()).parent)
    assert search_dirs(["conf", str(tmp_path), str(tmp_path)]) == [conf_dir(), str(tmp_path.resolve())]


def test_groups_leave_out_what_holds_no_options(tmp_path):
    for name in ("mine", "hydra", "empty", "no-name"):
        (tmp_path / name).mkdir()
    for name in ("mine", "hydra", "no-name"):
        (tmp_path / name / "x.yaml").write_text("a: 1\n")
    assert groups([str(tmp_path)]) == ["mine"]


def test_options_look_into_subfolders(tmp_path):
    (tmp_path / "data" / "film").mkdir(parents=True)
    (tmp_path / "data" / "film" / "x.yml").write_text("# @package data\n# Films.\nname: files\n")
    assert options("data", [str(tmp_path)]) == {"film/x": "Films."}


@pytest.mark.parametrize(
    ("text", "line"), [("a: 1\n# late\n", ""), ("\n\n#  One.\n", "One."), ("", ""), ("# @package x\na: 1\n", "")]
)
def test_headline(text, line, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    assert headline(str(tmp_path / "x.yaml")) == line


def test_read_keys_finds_lines_and_comments(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text('a: 1 # one\nb: # two\n  c: "x # y" # three\n  d: [1, 2] # four\ne: {f: 1} # five\ng: null\n')
    found = {name: (key.line, key.meaning) for name, key in read_keys(str(file)).items()}
    assert found == {
        "a": (1, "one"), "b": (2, "two"), "b.c": (3, "three"), "b.d": (4, "four"), "e": (5, "five"),
        "e.f": (5, found["e.f"][1]), "g": (6, ""),
    }  # fmt: skip


def test_defaults_are_those_of_the_primary_config():
    assert defaults()["objective"] == ["supervised"]
    assert defaults()["experiment"] is None
    assert "override hydra/job_logging" not in defaults()


def test_good_value_is_a_shipped_one():
    assert good_value("optimizer.betas", [3]) == [0.9, 0.999]
    assert good_value("train.keep", 0) == 1
    assert good_value("model.tokenizer.kind", "foo") == "bpe"
    assert good_value("no.such.key", 7) == 7


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("llmtune ", ["train", "ls"]),
        ("llmtune sh", ["show"]),
        ("llmtune ls mo", ["model"]),
        ("llmtune train opt", ["optimizer=", "optimizer."]),
        ("llmtune check freeze-policy=h", ["freeze-policy=head_only"]),
        ("llmtune train freeze_policy=bottom_layers freeze_policy.", ["freeze_policy.layers="]),
        ("llmtune train --c", ["--cfg", "--config-dir"]),
        ("llmtune show optimizer.lr", ["optimizer.lr"]),
        ("llmtune show seed task=s", ["task=sentiment"]),
        ("llmtune predict DIR in", []),
        ("llmtune train seed=", []),
    ],
)
def test_completion(line, some):
    found = candidates(line, WORDS, FROM_SETTINGS)
    assert set(some) <= set(found)
    assert bool(found) == bool(some)
    assert all(name.startswith(line.split(" ")[-1]) for name in found)

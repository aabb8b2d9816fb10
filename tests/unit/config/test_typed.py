"""A value means what the shell delivered; flags, recipes and settings stand in any order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.config.typed import arrange, read_setting, read_value, to_text
from llmtune.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3e-5", 3e-5),
        ("true", True),
        ("null", None),
        ("text", "text"),
        ("", ""),
        ("no", "no"),
        ("007", "007"),
        ("[1,2]", [1, 2]),
        ("[a, b]", ["a", "b"]),
        ("{a: 1}", {"a": 1}),
        ('"0"', "0"),
        ("'a b'", "a b"),
        ("/data/*.csv", "/data/*.csv"),
        ("hub:owner/name@test", "hub:owner/name@test"),
        ("评论", "评论"),
        (";", ";"),
        (",", ","),
        ("\t", "\t"),
        (" ", " "),
        ("a, b", "a, b"),
        ("a=b", "a=b"),
        ("/x=1/y.csv", "/x=1/y.csv"),
        ("it's", "it's"),
        ("a;b#c!", "a;b#c!"),
        ("~/data.csv", "~/data.csv"),
        (r"C:\data\new\(1).csv", r"C:\data\new\(1).csv"),
        (r"\\server\share", r"\\server\share"),
        (r"\t", r"\t"),
        ("range(1,3)", "range(1,3)"),
        ("f(x)", "f(x)"),
        ("[负面,正面]", ["负面", "正面"]),
        ("[no,负面,1,'1',1e-3]", ["no", "负面", 1, "1", 1e-3]),
        ("{负面: 2.5}", {"负面": 2.5}),
        ('{"a b": 1}', {"a b": 1}),
        ("[1,2", "[1,2"),
    ],
)
def test_read_value_takes_what_the_shell_delivered(text, value):
    assert read_value(text) == value
    assert type(read_value(text)) is type(value)


@pytest.mark.parametrize(
    "value",
    [1, 2.5, 1e-8, True, None, "a", "1", "true", "null", "a b", "it's", 'say "x"', "a,b", "[1]", "", " ", "评论",
     "C:\\x", [1, "1", None], {"a": [1]}, {"负面": 1.5}, []],
)  # fmt: skip
def test_to_text_is_read_back(value):
    assert read_value(to_text(value)) == value
    assert type(read_value(to_text(value))) is type(value)


def test_dashes_count_in_the_group_only():
    assert read_setting("freeze-policy.layers=2").key == "freeze_policy.layers"
    assert read_setting("train.class-weights.non-toxic=2").key == "train.class-weights.non-toxic"


def test_arrange_takes_flags_anywhere(tmp_path):
    found = arrange(["task=sentiment", "-m", "--config-dir", str(tmp_path), "seed=1", f"--config-dir={tmp_path}"])
    assert [setting.line for setting in found.settings] == ["task=sentiment", "seed=1"]
    assert found.multirun
    assert not found.show
    assert found.config_dirs == [str(tmp_path)] * 2
    assert arrange(["--cfg", "job"]).show
    assert arrange(["--cfg=job"]).show


def test_arrange_names_all_faults_of_the_line():
    with pytest.raises(ConfigError) as caught:
        arrange(["--wat", "word", "no.yaml"])
    assert [fault.where for fault in caught.value.faults] == ["--wat", "word", "no.yaml"]


def test_typed_wins_over_recipes_wherever_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("seed: 3\n")
    found = arrange(["seed=4", "my.yaml"])
    assert [(setting.line, setting.source) for setting in found.settings] == [
        ("seed=3", "my.yaml"),
        ("seed=4", "typed"),
    ]


def test_recipe_is_nested_or_dotted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.yml").write_text(
        "task: sentiment\noptimizer.lr: 3e-5\ntrain: {keep: 2, eval_every: 0.5ep}\nobjective: [supervised]\n"
        "data:\n  train: 评论.csv\n  columns: {text: 0}\ntrain.class_weights: {负面: 2}\n",
        encoding="utf-8",
    )
    assert {setting.key: setting.value for setting in arrange(["my.yml"]).settings} == {
        "task": "sentiment", "optimizer.lr": 3e-5, "train.keep": 2, "train.eval_every": "0.5ep",
        "objective": ["supervised"], "data.train": "评论.csv", "data.columns.text": 0, "train.class_weights.负面": 2,
    }  # fmt: skip


def test_a_path_may_hold_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lr=3.yaml").write_text("seed: 3\n")
    assert [setting.line for setting in arrange(["lr=3.yaml"]).settings] == ["seed=3"]
    assert [setting.line for setting in arrange(["data.label_names=names.yaml"]).settings] == [
        "data.label_names=names.yaml"
    ]


def test_lines_can_be_typed_again():
    lines = ["data.label_names=[负面,正面]", "run.name=a, b", "task=sentiment", "data.label_delimiter=;"]
    again = [setting.line for setting in arrange(lines).settings]
    assert again == lines
    assert json.dumps([setting.value for setting in arrange(again).settings]) == json.dumps(
        [["负面", "正面"], "a, b", "sentiment", ";"]
    )

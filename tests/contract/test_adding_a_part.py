"""The examples of docs/adding-a-part.md, taken from that page, are parts that check, freeze and train."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from llmtune import cli

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-part.md"
BLOCK = re.compile(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILES = [
    "my_parts/freeze_policy/every_other.py", "conf/freeze_policy/every_other.yaml",
    "my_parts/objective/confidence_penalty.py", "conf/objective/confidence_penalty.yaml",
]  # fmt: skip
WORDS = ["task=sentiment", "run.plugins=[my_parts]", "freeze_policy=every_other", "hardware=cpu", "hardware.threads=1"]


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A folder with the files of the page, the current one, importable."""
    files = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert [name for name, _ in files] == FILES
    for name, text in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for package in ("my_parts", "my_parts/freeze_policy", "my_parts/objective"):
        (tmp_path / package / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "my_parts"]:
        del sys.modules[name]


def test_the_part_is_listed(plugin, capsys):
    assert cli.main(["ls", "freeze_policy"]) == 0
    assert re.search(r"every_other +Every other layer stays as it is, from a step on\.", capsys.readouterr().out)


def test_the_part_needs_its_package_named(plugin, capsys):
    assert cli.main(["train", "task=sentiment", "freeze_policy=every_other", "--cfg", "job"]) == 2
    assert "run.plugins=[package]" in capsys.readouterr().err


def test_faults_in_its_settings_are_told_without_a_line_of_its_own(plugin, capsys):
    assert cli.main(["train", *WORDS, "freeze_policy.frist=1", "freeze_policy.from_step=soon"]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'freeze_policy.first'?" in said
    assert "freeze_policy.from_step" in said
    assert "my_parts.freeze_policy.every_other" not in sys.modules


def test_its_ranges_are_checked(plugin, capsys):
    assert cli.main(["train", *WORDS, "freeze_policy.first=-1"]) == 2
    assert "freeze_policy.first" in capsys.readouterr().err


def test_it_freezes_from_its_step_on(plugin, capsys):
    few = ["data.limit=32", "train.max_steps=3", "train.batch_rows=8", "train.verify_model=off", "run.dir=run",
           "freeze_policy.from_step=1", "train.log_every=1"]  # fmt: skip
    assert cli.main(["train", *WORDS, *few]) == 0
    at_start = json.loads(Path("run/run.json").read_text())["trainable"]
    at_end = json.loads(Path("run/result.json").read_text())
    assert all(row["parameters"] == row["trainable"] for row in at_start)
    layer_0 = next(row["parameters"] for row in at_start if row["place"] == "layer 0")
    assert at_end["parameters"] - at_end["trainable_parameters"] == layer_0


def test_the_objective_of_the_page_lowers_confidence(plugin, capsys):
    words = ["task=sentiment", "run.plugins=[my_parts]", "hardware=cpu", "hardware.threads=1", "data.limit=32",
             "train.max_steps=6", "train.batch_rows=16", "train.verify_model=off", "train.log_every=6",
             "objective=[supervised,confidence_penalty]"]  # fmt: skip
    entropies = []
    for number in ("0", "50"):
        extra = [f"objective.confidence_penalty.weight={number}", "train.eval_every=null", f"run.dir=weight{number}"]
        assert cli.main(["train", *words, *extra, "optimizer.lr=0.003"]) == 0
        lines = [json.loads(line) for line in Path(f"weight{number}/predictions.jsonl").read_text().splitlines()]
        entropies.append(sum(max(line["probabilities"].values()) for line in lines) / len(lines))
    assert entropies[1] < entropies[0]
    assert "loss/confidence_penalty" in Path("weight50/metrics.jsonl").read_text()

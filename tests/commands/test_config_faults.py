"""Every wrong config of the corpus gives its golden message, exit code 2, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

from llmtune import cli
from llmtune.config.compose import run_job
from llmtune.config.locate import conf_dir, option_files
from llmtune.config.settings import Config
from llmtune.config.shelf import shelf

HERE = Path(__file__).parent
CORPUS = yaml.safe_load((HERE / "config_faults.yaml").read_text(encoding="utf-8"))


def golden(case: dict, word: str) -> str:
    """The whole message: lists that grow with the project are filled in, several faults stand one a line."""

    def filled(line: str) -> str:
        line = re.sub(r"\$options\((\w+)\)", lambda found: ", ".join(option_files(found[1], [conf_dir()])), line)
        line = re.sub(r"\$parts\((\w+)\)", lambda found: ", ".join(shelf(found[1])), line)
        return line.replace("$keys", ", ".join(Config.__dataclass_fields__))

    lines = [filled(line) for line in case["says"]]
    several = f"{len(lines)} faults" + "".join(f"\n  {line}" for line in lines)
    return f"llmtune {word}: {lines[0] if len(lines) == 1 else several}\n"


def lay_files(case: dict, folder: Path) -> set[Path]:
    for name, content in case.get("files", {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return set(folder.rglob("*"))


def test_corpus_is_large_enough():
    assert len(CORPUS) >= 60


@pytest.mark.parametrize("name", CORPUS)
def test_wrong_config_gets_its_message(name, tmp_path, monkeypatch, capsys):
    before = lay_files(CORPUS[name], tmp_path)
    monkeypatch.chdir(tmp_path)
    command = types.ModuleType("llmtune.commands.train")
    command.main = lambda argv: run_job("train", argv, lambda *_: pytest.fail("the job was started"))
    monkeypatch.setitem(sys.modules, command.__name__, command)

    assert cli.main(["train", *CORPUS[name]["typed"]]) == 2

    out, err = capsys.readouterr()
    assert (out, err) == ("", golden(CORPUS[name], "train"))
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["all_at_once", "user_option_faults", "range_below"])
def test_printing_the_config_tells_the_same_faults(name, tmp_path, monkeypatch, capsys):
    lay_files(CORPUS[name], tmp_path)
    monkeypatch.chdir(tmp_path)
    command = types.ModuleType("llmtune.commands.train")
    command.main = lambda argv: run_job("train", argv, lambda *_: pytest.fail("the job was started"))
    monkeypatch.setitem(sys.modules, command.__name__, command)

    assert cli.main(["train", "--cfg", "job", *CORPUS[name]["typed"]]) == 2
    assert capsys.readouterr().err == golden(CORPUS[name], "train")


@pytest.mark.parametrize("word", ["train", "check"])
def test_a_fault_is_told_by_the_real_command_without_torch(word, tmp_path):
    code = (
        "import sys; from llmtune.cli import main; status = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'datasets'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, word, *CORPUS["all_at_once"]["typed"]],
        cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=60,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, golden(CORPUS["all_at_once"], word))
    assert list(tmp_path.iterdir()) == []

"""`llmtune smoke`: a line a task, exit code 1 where one fails, nothing left behind."""

from __future__ import annotations

import os
import signal

import pytest

from llmtune import cli
from llmtune.commands import smoke
from llmtune.config.locate import conf_dir, option_files
from llmtune.core.errors import DataError, Fault


@pytest.mark.slow
@pytest.mark.parametrize("task", list(option_files("task", [conf_dir()])))
def test_every_shipped_task_passes_and_leaves_nothing(task, folder, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    assert cli.main(["smoke", task]) == 0
    said = capsys.readouterr().out
    assert said.startswith(task)
    assert said.endswith("ok\n")
    assert len(said.splitlines()) == 1
    assert list(folder.iterdir()) == []
    assert dict(os.environ) == before
    assert signal.getsignal(signal.SIGTERM) is handler


def test_all_tasks_run_and_a_failing_one_is_told(monkeypatch, capsys):
    def train(task, folder):
        print(f"training {task}")
        if task == "sentiment":
            raise DataError(Fault("data.train", "is gone"))
        return 0

    monkeypatch.setattr(smoke, "_train", train)
    assert cli.main(["smoke"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("sentiment") and line.endswith("data.train: is gone") for line in lines)
    assert "training sentiment" in lines
    assert "training classification" not in lines
    assert lines[-1].endswith("failed: sentiment")


def test_unknown_task_is_refused(capsys):
    assert cli.main(["smoke", "sentimnt"]) == 2
    assert "did you mean 'sentiment'?" in capsys.readouterr().err

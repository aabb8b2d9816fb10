"""`llmtune train -m` through the real entry point: faults before anything starts, and one sweep of real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmtune import cli

ROOT = Path(__file__).parents[2]
TRAP = '''
from __future__ import annotations
import os, signal, sys
from dataclasses import dataclass
from pathlib import Path
from llmtune.objective.supervised import SupervisedLoss

@dataclass(frozen=True, kw_only=True)
class Trap:
    name: str
    def build(self, parts):
        return TrapLoss(None, parts.task)

class TrapLoss(SupervisedLoss):
    """The usual loss; in the second step of the jobs that traps.txt names it raises or is killed."""
    name = "trap"
    def __init__(self, weight, task):
        super().__init__(self.trapped_weight, task)
    def trapped_weight(self, step):
        traps = Path("traps.txt").read_text().split()
        job = next(word for word in sys.argv if word.startswith("run.dir=")).rpartition("/")[2]
        if step == 1 and f"raise:{job}" in traps:
            raise RuntimeError("the trap shut")
        if step == 1 and f"kill:{job}" in traps:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0
'''
TINY = (
    "task=sentiment", "data.limit=40", "run.plugins=[traps]", "objective=[trap]", "hardware.device=cpu",
    "train.max_steps=2", "train.save_every=1", "train.verify_model=off",
)  # fmt: skip


def llmtune(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(cwd), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-m", "llmtune", *words], cwd=cwd, env=environment, capture_output=True, encoding="utf-8",
        timeout=280,
    )  # fmt: skip


def add_trap(folder: Path) -> None:
    for path, text in {
        "traps/__init__.py": "", "traps/objective/__init__.py": "", "traps/objective/trap.py": TRAP,
        "conf/objective/trap.yaml": "# A loss that breaks when it is told to.\ntrap:\n  name: trap\n",
    }.items():  # fmt: skip
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


@pytest.mark.slow
def test_failing_and_killed_jobs_are_named_and_repeated_alone(tmp_path):
    add_trap(tmp_path)
    (tmp_path / "traps.txt").write_text("raise:1 kill:4")
    words = ("train", "-m", *TINY, "optimizer.lr=1e-3,3e-3", "seed=1,2,3", "sweep.dir=s", "sweep.jobs=2")
    first = llmtune(*words, cwd=tmp_path)
    assert first.returncode == 1, first.stdout + first.stderr
    assert first.stderr == ""
    assert "job 1 failed: RuntimeError: the trap shut; see s/1.log" in first.stdout
    assert "job 4 killed: killed by SIGKILL" in first.stdout
    assert "not finished: 2 of 6 jobs" in first.stdout
    board = json.loads((tmp_path / "s/leaderboard.json").read_text())
    assert {row["job"]: row["status"] for row in board["jobs"]} == {
        0: "finished", 1: "failed", 2: "finished", 3: "finished", 4: "killed", 5: "finished",
    }  # fmt: skip
    assert [group["num"] for group in board["seeds"]] == [2, 2]
    assert "RuntimeError: the trap shut" in (tmp_path / "s/1.log").read_text()

    untouched = {number: (tmp_path / f"s/{number}/run.json").stat().st_mtime_ns for number in (0, 2, 3, 5)}
    (tmp_path / "traps.txt").write_text("")
    second = llmtune(*words, cwd=tmp_path)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "sweep of 6 jobs, 4 finished before, 2 to do, 2 at a time: s" in second.stdout
    assert "[6/6] job " in second.stdout
    for number, changed in untouched.items():
        assert (tmp_path / f"s/{number}/run.json").stat().st_mtime_ns == changed
    for number in (1, 4):
        assert "goes on after step 1" in (tmp_path / f"s/{number}.log").read_text()
    assert all(row["status"] == "finished" for row in json.loads((tmp_path / "s/leaderboard.json").read_text())["jobs"])


def test_faults_of_any_job_stop_the_sweep_before_it_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "task=sentiment", "-m", "seed=1,x", "optimizer.lr=0.1,-1", "optimizer.lrr=3"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("llmtune train: 3 faults\n")
    assert "\n  optimizer.lrr: unknown key; did you mean 'optimizer.lr'?" in error
    assert "\n  seed: 'x' was given (jobs 2, 3 of 4)" in error
    assert "\n  optimizer.lr: -1" in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_cfg_prints_every_job_and_loads_no_torch(tmp_path):
    code = (
        "import sys; from llmtune.cli import main; status = main(sys.argv[1:]);"
        "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--cfg", "job", "-m", "seed=1,2", "optimizer.lr=1e-5,3e-5"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, encoding="utf-8", timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    heads = [line for line in done.stdout.splitlines() if line.startswith("---")]
    assert heads[0] == "--- # job 0: seed=1 optimizer.lr=1e-5"
    assert len(heads) == 4
    assert not {"torch", "transformers", "datasets"} & set(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_check_looks_at_every_job(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", "-m", "task=sentiment", "data=files", "data.train=a.csv,b.csv"]) == 2
    told = capsys.readouterr()
    assert told.out.count("--- # job") == 2
    assert "'a.csv' does not exist" in told.err
    assert "'b.csv' does not exist" in told.err


def test_folder_of_hydra_is_not_taken_in_silence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "-m", "seed=1,2", "hydra.sweep.dir=x"]) == 2
    assert capsys.readouterr().err == "llmtune train: hydra.sweep.dir=x: is Hydra's own folder; type sweep.dir=DIR\n"

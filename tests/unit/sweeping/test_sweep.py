"""A sweep with stand-ins for the training processes: order, failures, signals, going on, what is refused."""

from __future__ import annotations

import functools
import json
import os
import signal
from pathlib import Path

import pytest

from llmtune.config.typed import arrange
from llmtune.core.errors import ResumeError
from llmtune.run.files import write_json
from llmtune.sweeping import sweep as sweep_module
from llmtune.sweeping.jobs import checked_jobs
from llmtune.sweeping.running import Attempt, last_words, outcome
from llmtune.sweeping.sweep import run_sweep


class Trainings:
    """Starts nothing: each job ends with the code that its label was given (0 if none), after two looks."""

    def __init__(self, codes: dict[str, int] | None = None, says: str = "", stop_in: str | None = None):
        self.codes, self.says, self.stop_in = codes or {}, says, stop_in
        self.started: list[tuple[int, list[str]]] = []
        self.at_once = self.most_at_once = 0
        self.signals: list[int] = []

    def __call__(self, job, words, log: Path, gpus) -> Attempt:
        self.started.append((job.number, list(words)))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        with log.open("a") as file:
            start = file.tell()
            file.write(f"$ llmtune train\n{self.says}\n")
        folder = Path(words[0].removeprefix("run.dir="))
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(json.dumps(job.plain))
        return Attempt(job, _Training(self, job, folder), log, start, gpus)

    def numbers(self) -> list[int]:
        return [number for number, _ in self.started]


class _Training:
    def __init__(self, all_of_them: Trainings, job, folder: Path):
        self.all, self.job, self.folder, self.looks = all_of_them, job, folder, 0
        self.asked = False

    def send_signal(self, number: int) -> None:
        self.all.signals.append(number)
        self.asked = True

    def poll(self) -> int | None:
        self.looks += 1
        if self.looks < 2:
            if self.job.label == self.all.stop_in:
                os.kill(os.getpid(), signal.SIGTERM)
            return None
        self.all.at_once -= 1
        code = 75 if self.asked else self.all.codes.get(self.job.label, 0)
        if code == 0:
            score = self.job.config.seed / 10
            result = {"metric": "accuracy", "mode": "max", "best": {"score": score}, "test": {"accuracy": score}}
            write_json(self.folder / "result.json", result)
        write_json(self.folder / "run.json", {"status": "finished" if code == 0 else "failed"})
        return code


@pytest.fixture(autouse=True)
def _quick(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep_module, "visible_gpus", lambda: [])
    monkeypatch.setattr("llmtune.sweeping.running.POLL_S", 0.001)


@functools.cache
def jobs_of(*words: str):
    return checked_jobs(arrange(words).settings)


def go(trainings: Trainings, *words: str) -> int:
    return run_sweep(jobs_of(*words), trainings)


def board() -> list[dict]:
    return json.loads(Path("s/leaderboard.json").read_text())["jobs"]


GRID = ("seed=1,2,3", "sweep.dir=s")


def test_all_finish(capsys):
    trainings = Trainings()
    assert go(trainings, *GRID) == 0
    assert trainings.started == [(number, [f"run.dir=s/{number}"]) for number in range(3)]
    assert [row["job"] for row in board()] == [2, 1, 0]
    out = capsys.readouterr().out
    assert "sweep of 3 jobs, 1 at a time: s\n[1/3] job 0  seed=1: accuracy 0.1000 (test 0.1000), 0.0 s\n" in out
    assert "all       0.2000 ± 0.1000" in out
    assert Path("s/sweep.log").read_text() == out


def test_so_many_at_a_time_with_their_share_of_the_cores():
    trainings = Trainings()
    go(trainings, *GRID, "sweep.jobs=2")
    assert trainings.most_at_once == 2
    assert all(words[1].startswith("hardware.threads=") for _, words in trainings.started)


def test_failures_are_named_and_not_fatal(capsys):
    trainings = Trainings({"seed=1": 2, "seed=2": -signal.SIGKILL}, says="llmtune train: 2 faults\n  a: b; c\n  d: e")
    assert go(trainings, *GRID) == 1
    assert trainings.numbers() == [0, 1, 2]
    assert [(row["job"], row["status"]) for row in board()] == [(2, "finished"), (0, "failed"), (1, "killed")]
    out = capsys.readouterr().out
    assert "[1/3] job 0  seed=1: failed: a: b; c (and 1 more)" in out
    assert "job 1 killed: killed by SIGKILL" in out
    assert "see s/1.log" in out
    assert "not finished: 2 of 3 jobs; the same command with sweep.dir=s runs only these" in out


def test_second_start_runs_only_what_is_missing(capsys):
    go(Trainings({"seed=2": 1}), *GRID)
    again = Trainings()
    assert go(again, *GRID) == 0
    assert again.started == [(1, ["run.dir=s/1", "resume=auto"])]
    assert "sweep of 3 jobs, 2 finished before, 1 to do" in capsys.readouterr().out
    assert json.loads(Path("s/sweep.json").read_text())["jobs"][1]["attempts"] == 2
    nothing = Trainings()
    assert go(nothing, *GRID) == 0
    assert nothing.started == []


def test_signal_is_handed_on_and_nothing_more_starts(capsys):
    trainings = Trainings(stop_in="seed=2")
    assert go(trainings, *GRID) == 75
    assert trainings.numbers() == [0, 1]
    assert trainings.signals == [signal.SIGTERM]
    assert {row["job"]: row["status"] for row in board()} == {0: "finished", 1: "stopped", 2: "waiting"}
    assert "stopped by SIGTERM: what ran is saved" in capsys.readouterr().out
    again = Trainings()
    assert go(again, *GRID) == 0
    assert again.numbers() == [1, 2]


def test_finished_jobs_go_on_when_longer_training_is_asked_for():
    go(Trainings(), *GRID, "train.max_steps=2")
    again = Trainings()
    go(again, *GRID, "train.max_steps=3")
    assert again.numbers() == [0, 1, 2]


def test_grid_may_grow():
    go(Trainings(), "seed=3", "sweep.dir=s")
    trainings = Trainings()
    assert go(trainings, "seed=1,2,3", "sweep.dir=s") == 0
    assert trainings.numbers() == [1, 2]
    assert {row["job"]: row["swept"] for row in board()} == {0: {"seed": "3"}, 1: {"seed": "1"}, 2: {"seed": "2"}}


def test_grid_may_not_shrink():
    go(Trainings(), *GRID)
    with pytest.raises(ResumeError) as caught:
        go(Trainings(), "seed=1,2", "sweep.dir=s")
    assert str(caught.value).startswith("s: has job 2 (seed=3), which this grid lacks; type the grid of the first time")


def test_other_settings_are_refused_by_name():
    go(Trainings(), *GRID)
    trainings = Trainings()
    with pytest.raises(ResumeError) as caught:
        go(trainings, *GRID, "data.limit=40")
    assert str(caught.value).startswith("data.limit: was ")
    assert "now 40; s holds another sweep; type the grid of the first time" in str(caught.value)
    assert trainings.started == []


def test_folder_with_something_else_is_left_alone():
    Path("s").mkdir()
    Path("s/thesis.tex").write_text("x")
    with pytest.raises(ResumeError) as caught:
        go(Trainings(), *GRID)
    assert str(caught.value).startswith("sweep.dir: s is there already and holds no sweep")
    assert os.listdir("s") == ["thesis.tex"]


def test_default_folder_is_new_each_time():
    for _ in range(2):
        go(Trainings(), "task=sentiment", "seed=1,2")
    assert len(list(Path("outputs/sentiment-sweep").glob("*/*/leaderboard.csv"))) == 2


def test_job_killed_before_it_wrote_anything_starts_anew():
    go(Trainings({"seed=2": -9}), *GRID)
    Path("s/1/config.yaml").unlink()
    Path("s/1/run.json").rename("s/1/.run.json.tmp")
    trainings = Trainings()
    assert go(trainings, *GRID) == 0
    assert trainings.started == [(1, ["run.dir=s/1"])]


def test_two_sweeps_do_not_share_a_folder():
    class Meddling(Trainings):
        def __call__(self, *arguments) -> Attempt:
            with pytest.raises(ResumeError, match="another process works on this sweep"):
                go(Trainings(), *GRID)
            return super().__call__(*arguments)

    assert go(Meddling(), "seed=1,2,3", "sweep.dir=s") == 0


@pytest.mark.parametrize(
    ("code", "stopping", "status"),
    [(0, False, "finished"), (1, False, "failed"), (2, False, "failed"), (3, False, "diverged"), (75, False, "stopped"),
     (-15, True, "stopped"), (-15, False, "killed"), (-9, True, "killed")],
)  # fmt: skip
def test_status_by_exit_code(tmp_path, code, stopping, status):
    (tmp_path / "log").write_text("")
    assert outcome(code, tmp_path / "log", 0, stopping=stopping)[0] == status


def test_stopped_job_says_what_it_saved(tmp_path):
    words = "stopped by SIGTERM after step 4; everything is saved"
    (tmp_path / "log").write_text(f"$ llmtune train\nllmtune train: {words}\n")
    assert outcome(75, tmp_path / "log", 0, stopping=True) == ("stopped", words)


def test_last_words_of_a_traceback(tmp_path):
    older = "llmtune train: an older attempt\n"
    (tmp_path / "log").write_text(f"{older}$ llmtune train\nTraceback\n  File x\nValueError: boom\n\n")
    assert last_words(tmp_path / "log", len(older)) == "ValueError: boom"

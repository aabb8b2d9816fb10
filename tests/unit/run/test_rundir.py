"""Run folders: one each, never overwritten; what may change on resume."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from llmtune.core.errors import ResumeError
from llmtune.run import rundir
from llmtune.run.metrics_log import MetricsLog, read_metrics


def make(base: Path, queue: Any) -> None:
    queue.put(str(rundir.create("sentiment", None, base).path))


def test_twenty_starts_in_one_second_make_twenty_folders(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    processes = [context.Process(target=make, args=(tmp_path, queue)) for _ in range(20)]
    for process in processes:
        process.start()
    made = {queue.get() for _ in processes}
    for process in processes:
        process.join()
    assert len(made) == 20
    assert all(Path(path).is_dir() for path in made)


def test_a_given_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("x")
    with pytest.raises(ResumeError, match=r"is there already.*resume=auto to go on with it"):
        rundir.create("sentiment", str(tmp_path / "run"))
    assert (tmp_path / "run" / "precious").read_text() == "x"


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    first = rundir.create("sentiment", str(tmp_path / "run"))
    first.lock()
    with pytest.raises(ResumeError, match="another process works on this run"):
        rundir.RunDir(first.path).lock()


OLD = {
    "seed": 1, "train": {"epochs": 3, "batch_rows": 32, "keep": 1}, "hardware": {"processes": 1},
    "run": {"dir": None}, "resume": None, "data": {"cache_dir": None, "limit": None},
}  # fmt: skip


def changed(**groups: dict[str, Any]) -> dict[str, Any]:
    new: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in OLD.items()}
    for group, values in groups.items():
        new[group].update(values)
    return new


def test_what_is_computed_may_not_change_on_resume() -> None:
    faults = rundir.differences(OLD, {**changed(train={"batch_rows": 16}), "seed": 2})
    assert [fault.where for fault in faults] == ["seed", "train.batch_rows"]
    assert "was 32, now 16" in str(faults[1])


def test_how_long_and_where_may_change_on_resume() -> None:
    new = changed(train={"epochs": 5, "keep": 3}, hardware={"processes": 2}, run={"dir": "x"}, data={"cache_dir": "y"})
    assert rundir.differences(OLD, {**new, "resume": "auto"}) == []
    assert rundir.fingerprint(OLD) == rundir.fingerprint(new)


def test_newest_unfinished_run_of_the_same_config(tmp_path: Path) -> None:
    for status, seed in (("stopped", 1), ("finished", 1), ("failed", 2)):
        run = rundir.create("sentiment", None, tmp_path)
        run.write_config({**OLD, "seed": seed})
        run.update(status=status)
    found = rundir.newest_unfinished("sentiment", OLD, tmp_path)
    assert found is not None
    assert found.status == "stopped"
    assert rundir.newest_unfinished("sentiment", {**OLD, "seed": 9}, tmp_path) is None


def test_metrics_are_cut_back_to_the_mark(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write({"step": 1, "text": "größer"})
    mark = log.mark()
    log.write({"step": 2})
    with log.path.open("ab") as file:
        file.write(b'{"step": 3, "lo')
    assert [record["step"] for record in read_metrics(log.path)] == [1, 2]
    log.cut_back(mark)
    log.write({"step": 2})
    assert [record["step"] for record in read_metrics(log.path)] == [1, 2]

"""The folder of a sweep: its grid and the state of each job in sweep.json, so that it can be gone on with."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from llmtune.config.secrets import redacted_line
from llmtune.core.errors import Fault, LlmtuneError, ResumeError
from llmtune.run import rundir
from llmtune.run.files import read_json, write_json
from llmtune.run.rundir import RunDir
from llmtune.sweeping.jobs import Job, label_of

SHOWN_FAULTS = 5


@dataclass
class Record:
    """A job as sweep.json keeps it."""

    number: int
    identity: str
    swept: dict[str, str]
    status: str = "waiting"
    """waiting, running, finished, failed, diverged, killed, stopped"""
    cause: str | None = None
    seconds: float = 0.0
    """of all attempts, by the clock on the wall"""
    attempts: int = 0


class SweepDir:
    """One folder; `records` in the order of their numbers."""

    def __init__(self, path: Path, records: list[Record], facts: dict[str, Any]):
        self.path = path
        self.records = records
        self.facts = facts
        self._lock = filelock.FileLock(path / ".lock", timeout=0)

    file = property(lambda self: self.path / "sweep.json")
    log = property(lambda self: self.path / "sweep.log")

    def run(self, number: int) -> RunDir:
        return RunDir(self.path / str(number))

    def job_log(self, number: int) -> Path:
        """What the job printed; beside its folder, which `train` wants to make itself."""
        return self.path / f"{number}.log"

    def lock(self) -> None:
        """Raises ResumeError: another process works on this sweep."""
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise ResumeError(Fault(str(self.path), "another process works on this sweep", "wait for it")) from error

    def unlock(self) -> None:
        self._lock.release()

    def save(self) -> None:
        write_json(self.file, {**self.facts, "jobs": [dataclasses.asdict(record) for record in self.records]})


def open_sweep(jobs: Sequence[Job]) -> tuple[SweepDir, list[Job]]:
    """The locked folder of these jobs and the jobs under the numbers they have there.

    A folder that holds a sweep is gone on with: its jobs keep their numbers, new ones get the next. All of its jobs
    must be in the new grid.

    Raises:
        ResumeError: the folder holds something else, or jobs that the new grid lacks; or it can't be made.
    """
    wanted = jobs[0].config.sweep.dir
    if wanted is None or not (Path(wanted).expanduser() / "sweep.json").exists():
        path = _make(jobs, wanted)
        facts = {
            "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": ["llmtune", "train", "-m", *map(redacted_line, _command(jobs))],
            "config": jobs[0].plain,
        }
        sweep, numbered = SweepDir(path, [], facts), list(jobs)
        sweep.lock()
    else:
        path = Path(wanted).expanduser()
        sweep = SweepDir(path, [], {})
        sweep.lock()
        sweep.records, sweep.facts = _read(sweep.file)
        numbered = _numbered(jobs, sweep)
    known = {record.identity for record in sweep.records}
    sweep.records += [Record(job.number, job.identity, job.swept) for job in numbered if job.identity not in known]
    swept = {job.identity: job.swept for job in numbered}
    for record in sweep.records:
        record.swept = swept[record.identity]  # a key that was fixed may vary now
    sweep.save()
    return sweep, sorted(numbered, key=lambda job: job.number)


def _make(jobs: Sequence[Job], wanted: str | None) -> Path:
    """A new folder: exactly `wanted`, or `outputs/<task>-sweep/<date>/<time>[-n]`."""
    if wanted is None:
        tasks = dict.fromkeys(job.config.task.name for job in jobs)
        return rundir.create(f"{'-'.join(tasks)}-sweep", None).path
    path = Path(wanted).expanduser()
    if path.exists() and (not path.is_dir() or any(not found.name.startswith(".") for found in path.iterdir())):
        raise ResumeError(
            Fault("sweep.dir", f"{wanted} is there already and holds no sweep", "a new folder, or that of a sweep")
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResumeError(
            Fault("sweep.dir", f"{wanted} can't be made: {error.strerror}", "a folder that can be written")
        ) from error
    return path


def _command(jobs: Sequence[Job]) -> list[str]:
    """The lines of the whole grid, values joined again."""
    texts: dict[str, dict[str, None]] = {}
    for line in (line for job in jobs for line in job.lines):
        key, _, text = line.partition("=")
        texts.setdefault(key, {})[text] = None
    return [f"{key}={','.join(values)}" for key, values in texts.items()]


def _read(file: Path) -> tuple[list[Record], dict[str, Any]]:
    try:
        facts = read_json(file)
        return [Record(**record) for record in facts.pop("jobs")], facts
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResumeError(Fault(str(file), f"can't be read: {error}", "", "another sweep.dir starts anew")) from error


def _numbered(jobs: Sequence[Job], sweep: SweepDir) -> list[Job]:
    """The jobs under the numbers of the stored ones."""
    stored = {record.identity: record.number for record in sweep.records}
    asked = {job.identity for job in jobs}
    missing = [record for record in sweep.records if record.identity not in asked]
    if missing:
        raise ResumeError(*_faults(jobs, sweep, missing))
    following = iter(range(max(stored.values(), default=-1) + 1, len(jobs) + len(stored) + 1))
    return [
        dataclasses.replace(job, number=stored[job.identity] if job.identity in stored else next(following))
        for job in jobs
    ]


def _faults(jobs: Sequence[Job], sweep: SweepDir, missing: Sequence[Record]) -> list[Fault]:
    """What differs: settings, where no job is left of the stored sweep; else the jobs that the new grid lacks."""
    fix = "type the grid of the first time (more values are fine), or another sweep.dir"
    if len(missing) == len(sweep.records):
        like = next((job for job in jobs if job.swept == sweep.records[0].swept), jobs[0])
        faults = rundir.differences(sweep.facts.get("config") or {}, like.plain)
        if faults:
            return [Fault(fault.where, fault.given, f"{sweep.path} holds another sweep", fix) for fault in faults]
    shown = [
        Fault(str(sweep.path), f"has job {record.number} ({label_of(record.swept)}), which this grid lacks", "", fix)
        for record in missing[:SHOWN_FAULTS]
    ]
    more = len(missing) - len(shown)
    return [*shown, Fault(str(sweep.path), f"and {more} more jobs")] if more else shown


def leftover(run: RunDir) -> None:
    """Take away what a job left that was killed before its folder held a config: `train` wants to make it itself.

    Raises:
        LlmtuneError: there is more in it than a lock and half-written files.
    """
    if not run.path.is_dir() or run.config.exists():
        return
    for path in run.path.iterdir():
        if not path.name.startswith("."):
            raise LlmtuneError(f"{run.path} holds {path.name} but no config.yaml: it is no run of this sweep")
        path.unlink()
    run.path.rmdir()

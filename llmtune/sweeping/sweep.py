"""A sweep from its checked jobs to its leaderboard: what is missing is run, what is finished is left alone."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence

import filelock

from llmtune.config.typed import to_text
from llmtune.core.errors import ResumeError, Stopped
from llmtune.run import rundir
from llmtune.run.console import Console
from llmtune.run.signals import StopRequest
from llmtune.sweeping import folder, leaderboard
from llmtune.sweeping.folder import Record, SweepDir
from llmtune.sweeping.gpus import GpuShares, visible_gpus
from llmtune.sweeping.jobs import Job
from llmtune.sweeping.running import Attempt, outcome, run_all, start_process

SAVING_S = 60.0
"""a job whose sweep was killed gets so long to save before it is started again"""


def run_sweep(jobs: Sequence[Job], start: Callable[..., Attempt] = start_process) -> int:
    """Exit code: 0 all finished; 1 a job did not; 75 stopped by a signal. Raises ResumeError before any job starts."""
    stop = StopRequest().listen()
    sweep, numbered = folder.open_sweep(jobs)
    console = Console()
    console.attach(sweep.log)
    try:
        return _Sweep(sweep, numbered, console, stop, start).run()
    finally:
        sweep.unlock()


class _Sweep:
    def __init__(
        self, sweep: SweepDir, jobs: Sequence[Job], console: Console, stop: StopRequest, start: Callable[..., Attempt]
    ):
        self.sweep, self.jobs, self.console, self.stop, self.start = sweep, jobs, console, stop, start
        self.records: dict[int, Record] = {record.number: record for record in sweep.records}
        self.missing = [job for job in jobs if not self._is_done(job)]
        self.done = len(jobs) - len(self.missing)
        self.at_once = max(1, min(jobs[0].config.sweep.jobs, len(self.missing)))
        wants_gpu = any(job.config.hardware.device in ("auto", "cuda") for job in self.missing)
        self.gpus = GpuShares(visible_gpus() if wants_gpu else [])

    def run(self) -> int:
        say = self.console.say
        left = f"{self.done} finished before, {len(self.missing)} to do, " if self.done else ""
        say(f"sweep of {len(self.jobs)} jobs, {left}{self.at_once} at a time: {self.sweep.path}")
        for job in self.missing:
            self._settle(job)
        run_all(self.missing, self.at_once, self._started, self._ended, self.stop)
        rows, groups = leaderboard.write(self.sweep)
        say()
        for line in leaderboard.tables(rows, groups):
            say(line)
        self._say_end(rows)
        if self.stop:
            return Stopped.exit_code
        return 0 if all(row.status == "finished" for row in rows) else 1

    def _is_done(self, job: Job) -> bool:
        run = self.sweep.run(job.number)
        done = run.status == "finished" and run.result.exists() and not rundir.asks_for_more(run, job.plain)
        if done:
            self.records[job.number].status, self.records[job.number].cause = "finished", None
        return done

    def _settle(self, job: Job) -> None:
        """Wait until a job that a killed sweep left behind has saved and ended."""
        run = self.sweep.run(job.number)
        if run.path.exists():
            try:
                with filelock.FileLock(run.path / ".lock", timeout=0):
                    pass
            except filelock.Timeout:
                self.console.say(f"job {job.number} of the sweep before is still at work: waiting for it to end")
                try:
                    with filelock.FileLock(run.path / ".lock", timeout=SAVING_S):
                        pass
                except filelock.Timeout:
                    raise ResumeError(f"{run.path}: another process works on this run; end it first") from None
        folder.leftover(run)

    def _started(self, job: Job) -> Attempt:
        record, run, settings = self.records[job.number], self.sweep.run(job.number), job.config.hardware
        words = [f"run.dir={to_text(str(run.path))}"]
        if run.config.exists():
            words.append("resume=auto")
        if self.at_once > 1 and settings.threads == "auto":
            words.append(f"hardware.threads={max(1, _cores() // self.at_once)}")
        gpus = self.gpus.take(settings.processes) if settings.device in ("auto", "cuda") else []
        record.status, record.cause, record.attempts = "running", None, record.attempts + 1
        self.sweep.save()
        return self.start(job, words, self.sweep.job_log(job.number), gpus)

    def _ended(self, attempt: Attempt, code: int) -> None:
        record = self.records[attempt.job.number]
        self.gpus.give_back(attempt.gpus)
        record.status, record.cause = outcome(code, attempt.log, attempt.log_start, stopping=bool(self.stop))
        if record.status == "finished" and not self.sweep.run(record.number).result.exists():
            record.status, record.cause = "failed", "ended well but left no result.json"
        record.seconds += attempt.seconds
        self.sweep.save()
        self.done += 1
        row = next(row for row in leaderboard.write(self.sweep)[0] if row.job == record.number)
        words = f"{record.status}: {record.cause}"
        if record.status == "finished":
            words = f"{row.metric} {leaderboard.number(row.score)}" + (
                f" (test {leaderboard.number(row.test)})" if row.test is not None else ""
            )
        label = f"  {attempt.job.label}" if attempt.job.label else ""
        self.console.say(f"[{self.done}/{len(self.jobs)}] job {record.number}{label}: {words}, {attempt.seconds:.1f} s")

    def _say_end(self, rows: Sequence[leaderboard.Row]) -> None:
        say, path = self.console.say, self.sweep.path
        say()
        for row in sorted(rows, key=lambda row: row.job):
            if row.status not in ("finished", "waiting"):
                log = f"; see {self.sweep.job_log(row.job)}"
                say(f"job {row.job} {row.status}: {row.cause}{log}")
        say(f"run folders: {path}/<job>; the table: {path / 'leaderboard.csv'} and .json")
        if self.stop:
            say(f"stopped by {self.stop.name}: what ran is saved")
        missing = sum(row.status != "finished" for row in rows)
        if missing:
            same = shlex.quote(f"sweep.dir={path}")
            say(f"not finished: {missing} of {len(rows)} jobs; the same command with {same} runs only these")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

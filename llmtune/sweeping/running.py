"""The jobs of a sweep as processes: so many at a time, signals handed on, and why one ended badly."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from llmtune.run import children
from llmtune.run.signals import StopRequest
from llmtune.sweeping.jobs import Job

POLL_S = 0.05
LONGEST_CAUSE = 300
TAIL_BYTES = 65536


class Process(Protocol):
    """What is used of a Popen."""

    def poll(self) -> int | None: ...

    def send_signal(self, number: int) -> None: ...


@dataclass
class Attempt:
    """A job that runs or ran."""

    job: Job
    process: Process
    log: Path
    log_start: int = 0
    """where in the log this attempt begins"""
    gpus: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0


def run_all(
    jobs: Sequence[Job], at_once: int, start: Callable[[Job], Attempt], ended: Callable[[Attempt, int], None],
    stop: StopRequest,
) -> None:  # fmt: skip
    """Start the jobs in order, `at_once` at a time; call `ended(attempt, exit code)` for each.

    After a stop request no more are started; those that run get SIGTERM, upon which they save, and are waited for.
    """
    waiting, running = list(jobs), list[Attempt]()
    handed_on = False
    while running or (waiting and not stop):
        while waiting and len(running) < at_once and not stop:
            running.append(start(waiting.pop(0)))
        if stop and not handed_on:
            handed_on = True
            for attempt in running:
                attempt.process.send_signal(signal.SIGTERM)
        for attempt in list(running):
            code = attempt.process.poll()
            if code is not None:
                attempt.seconds = time.monotonic() - attempt.started
                running.remove(attempt)
                ended(attempt, code)
        time.sleep(POLL_S)


def start_process(job: Job, words: Sequence[str], log: Path, gpus: list[str]) -> Attempt:
    """`python -m llmtune train ...`; what it prints is appended to `log`, under the command itself.

    The process has a session of its own, so that a Ctrl-C reaches it once, through the sweep.
    """
    command = ["train", *job.flags, *job.lines, *words]
    environment = children.environment()
    environment.pop("HYDRA_FULL_ERROR", None)
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    with log.open("ab") as file:
        start = file.tell()
        given = f"CUDA_VISIBLE_DEVICES={environment['CUDA_VISIBLE_DEVICES']} " if gpus else ""
        file.write(f"$ {given}llmtune {shlex.join(command)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "llmtune", *command], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            env=environment, start_new_session=True, preexec_fn=children.follower(),
        )  # fmt: skip
    return Attempt(job, process, log, start, gpus)


def outcome(code: int, log: Path, log_start: int, *, stopping: bool) -> tuple[str, str | None]:
    """`(status, one line that says why)` of a job that ended with `code`."""
    if code == 0:
        return "finished", None
    if code == 75 or (stopping and code == -signal.SIGTERM):
        return "stopped", last_words(log, log_start) or "stopped by a signal before it began"
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        hint = ", as the kernel does when memory runs out" if name == "SIGKILL" else ""
        return "killed", f"killed by {name}{hint}"
    return "diverged" if code == 3 else "failed", last_words(log, log_start) or f"ended with code {code}"


def last_words(log: Path, start: int = 0) -> str:
    """The line of a log that says why the run failed: llmtune's own message, else the last line (of a traceback)."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode("utf-8", errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("$ ")]
    for number in reversed(range(len(lines))):
        said = re.match(r"llmtune(?: \w+)?: (.+)", lines[number])
        if said:
            several = re.fullmatch(r"(\d+) faults", said[1])
            if several and number + 1 < len(lines):
                return f"{lines[number + 1]} (and {int(several[1]) - 1} more)"[:LONGEST_CAUSE]
            return said[1][:LONGEST_CAUSE]
    return lines[-1][:LONGEST_CAUSE] if lines else ""

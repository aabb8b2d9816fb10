"""Runs programs that a model wrote against their tests, in processes that can harm nothing and know nothing.

Which walls are built depends on what the machine allows; before the first program, one of llmtune's own tries to break
them. Linux only. What it is not: a virtual machine (see docs/tasks/code.md).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from llmtune.core.errors import ConfigError, Fault, LlmtuneError
from llmtune.scoring import sandbox_filter

CHILD = Path(__file__).with_name("sandbox_child.py")
FIRST_USER = 1_600_000_000
"""users that programs run as where llmtune runs as root: this and a process id, so that no two are the same"""
START_S = 60.0
"""the guard itself may take so long besides, on a busy machine"""


class Limits(NamedTuple):
    """What one program may use."""

    seconds: float = 5.0
    """of computing; by the clock twice that and 3 s more, on a busy machine up to 8 times as much"""
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    """size of one file"""
    folder_bytes: int = 64 << 20
    """of all its files, where it may write any"""
    open_files: int = 64
    tasks: int = 64
    """threads"""


class Program(NamedTuple):
    """A program and what tries it."""

    source: str
    tests: str
    entry_point: str | None = None
    """what `check(...)` in the tests is called with"""


class Verdict(NamedTuple):
    passed: bool
    reason: str
    """why it failed, in one line"""
    seconds: float
    """of CPU"""


class Walls(NamedTuple):
    """One way of containing a program: which means it takes."""

    namespaces: str | None
    """own: as root; user: as an ordinary user; None: without"""
    user: int | None
    landlock: bool
    filter: bool

    def describe(self) -> list[str]:
        """In words, one protection a line."""
        own = [
            "no network: a network namespace of its own, without any interface",
            "sees no other process; whatever it started is killed with it (process-id namespace)",
            "sees no files but Python's, read-only, and an empty folder in memory (mount namespace)",
        ]
        lent = [
            "may write no files at all, change none, and start no other process (seccomp)",
            *(["may read no files but Python's (Landlock)"] if self.landlock else []),
        ]
        return [
            *(own if self.namespaces else lent),
            *(["no sockets, no other programs, no new processes (seccomp)"] if self.filter else []),
            *(["runs as a user of its own that owns nothing"] if self.user else []),
            "no capabilities, no new rights, an empty environment",
            "limits on time, memory, threads, files and what it says",
        ]


USUAL_LIMITS = Limits()


class Sandbox:
    """Programs go in, verdicts come out.

    Raises:
        ConfigError: this machine can't contain programs, and `loose` is off.
    """

    def __init__(self, limits: Limits = USUAL_LIMITS, *, workers: int = 1, loose: bool = False):
        self.limits, self.workers = limits, workers
        self.walls = _best_walls(loose)

    def describe(self) -> list[str]:
        """The protections that are on."""
        return self.walls.describe()

    def run(self, program: Program) -> Verdict:
        """Raises LlmtuneError where the walls that stood at first can't be built any more."""
        for wait_s in (0.5, 2.0, None):
            answer = run_within(self.walls, self.limits, program)
            if "walls" not in answer:
                return Verdict(**answer)
            if wait_s is not None:
                time.sleep(wait_s)  # a busy machine may have had no process left to give
        raise LlmtuneError(Fault("sandbox", f"a program could not be run: {answer['walls']}"))

    def run_all(self, programs: Sequence[Program], should_stop: Callable[[], bool] = lambda: False) -> list[Verdict]:
        """Verdicts in the order of the programs, `workers` at a time; the same program is run once."""
        different = list(dict.fromkeys(programs))

        def one(program: Program) -> Verdict | None:
            return None if should_stop() else self.run(program)

        pool = ThreadPoolExecutor(max(1, self.workers))
        try:
            verdicts = dict(zip(different, pool.map(one, different)))
        finally:  # what has not begun does not begin, where one failed or the user stops it all
            pool.shutdown(cancel_futures=True)
        stopped = Verdict(False, "stopped", 0.0)
        return [verdicts[program] or stopped for program in programs]


def run_within(walls: Walls, limits: Limits, program: Program) -> dict[str, Any]:
    """What the guard says: a verdict, or {"walls": which of them could not be built}."""
    with tempfile.TemporaryDirectory(prefix="llmtune-program-", ignore_cleanup_errors=True) as folder:
        if walls.user and not walls.namespaces:
            os.chmod(folder, 0o755)  # its user may enter; nobody may write
        job = {
            "plan": walls._asdict(), "limits": limits._asdict(), "folder": folder, "package": str(CHILD.parents[2]),
            **program._asdict(), "program": program.source,
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-s", "-S", str(CHILD), folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=_environment(), cwd=folder, start_new_session=True, close_fds=True,
        )  # fmt: skip
        try:
            longest = 20 * limits.seconds + START_S
            said, _ = process.communicate(json.dumps(job).encode("utf-8", "surrogatepass"), timeout=longest)
        except subprocess.TimeoutExpired:
            return {"passed": False, "reason": f"it took more than {limits.seconds:g} s", "seconds": limits.seconds}
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, 9)
            process.kill()
            process.communicate()
    try:
        return dict(json.loads(said))
    except ValueError:
        return {"walls": f"the guard of the sandbox ended (exit status {process.returncode})"}


def _environment() -> dict[str, str]:
    """Of the guard: nothing but what Python needs to start; sets of texts have one order."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {**kept, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}


def ladder(loose: bool) -> list[Walls]:
    """Ways to contain programs, the best first; not each is possible on each machine."""
    filter = sandbox_filter.can_filter()
    user = FIRST_USER if os.geteuid() == 0 else None
    kinds: list[str | None] = ["own", "user"] if user else ["user"]
    found = [Walls(kind, user if kind == "own" else None, False, filter) for kind in kinds]
    if filter:
        found.append(Walls(None, user, True, True))
    if filter and (user or loose):
        found.append(Walls(None, user, False, True))
    return found


_known: dict[bool, Walls] = {}


def _best_walls(loose: bool) -> Walls:
    """The first of the ladder that can be built here and that llmtune's own program can't break."""
    if not sys.platform.startswith("linux"):
        raise ConfigError(
            Fault("task.run_tests", f"programs can't be contained on {sys.platform}",
                  "programs that a model wrote are only run on Linux", "type task.run_tests=never")
        )  # fmt: skip
    if loose in _known:
        return _known[loose]
    reasons = []
    for walls in ladder(loose):
        answer = run_within(walls, Limits(seconds=10.0), _attempt(walls))
        if answer.get("passed"):
            _known[loose] = walls
            return walls
        reasons.append(f"{_name(walls)}: {answer.get('walls') or answer.get('reason')}")
    raise ConfigError(
        Fault("task.run_tests", f"programs can't be contained on this machine ({'; '.join(reasons)})",
              "it takes user namespaces, or seccomp with Landlock",
              "type task.sandbox=loose to do with less (other files of yours could be read), or task.run_tests=never")
    )  # fmt: skip


def _name(walls: Walls) -> str:
    means = {"own": "namespaces", "user": "user namespaces"}.get(walls.namespaces or "", "")
    return means or ("seccomp and Landlock" if walls.landlock else "seccomp")


def _attempt(walls: Walls) -> Program:
    """A program that tries what must not be possible, and uses what must be."""
    seen = walls.namespaces or walls.landlock or walls.user
    secret = f"/proc/{os.getpid()}/environ"
    tests = f"""
import collections, datetime, decimal, fractions, functools, heapq, itertools, json, math, re, string, typing
def stopped(attempt):
    try:
        attempt()
    except OSError:
        return True
    return False
assert stopped(lambda: open({str(Path.home() / ".llmtune-sandbox")!r}, "w")), "it can write files"
assert stopped(lambda: open("/var/tmp/.llmtune-sandbox", "w")), "it can write files"
assert {not seen} or stopped(lambda: open({secret!r}, "rb").read()), "it can read the environment of llmtune"
def connect():
    import socket
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        other = socket.create_connection(one.getsockname(), timeout=1)
import os
assert not os.environ, "it has an environment"
assert {walls.filter is False} or stopped(connect), "it can open sockets"
assert {walls.filter is False} or stopped(lambda: os.fork() or os._exit(0)), "it can start processes"
"""
    return Program("", tests)

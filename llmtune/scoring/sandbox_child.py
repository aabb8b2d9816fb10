"""What runs a program and its tests, in processes of its own: a guard, and under it the one that is guarded.

Started as a script with an empty environment; a job comes in as JSON, a verdict goes out as JSON. The guard builds the
walls, starts the guarded process in them, and kills it at its limit. That the tests ended is proven by a word which the
guard sends down a pipe and the guarded process reads only after the last test.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # the folder of this script: its modules are not the standard library's

import builtins
import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Sequence
from typing import Any

PROGRAM, TESTS = "<program>", "<tests>"
MOST_SAID = 16384
LONGEST_REASON = 300
WALL_SHARE, WALL_MORE_S = 2.0, 3.0
"""by the clock a program may take so much longer than it may compute"""
MOST_TURNS, LEAST_SHARE = 8, 0.02
"""and so often again, while it computes this share of the time"""


def main() -> None:
    """Read a job, answer with {"passed": bool, "reason": text} or {"walls": what could not be built}."""
    job = json.load(sys.stdin)
    answer = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(nowhere, handle)
    os.set_inheritable(answer, False)
    try:
        said = guarded(job)
    except Exception as error:
        said = {"walls": f"{type(error).__name__}: {error}"}
    os.write(answer, json.dumps(said).encode())


def guarded(job: dict[str, Any]) -> dict[str, Any]:
    """Build the walls that hold for all that this process starts, start the program's own, and judge what it says."""
    sys.path.append(job["package"])
    from llmtune.scoring import sandbox_filter, sandbox_tests, sandbox_walls

    sys.path.remove(job["package"])
    plan, folders = job["plan"], sandbox_walls.python_folders()
    user = plan["user"] + os.getpid() if plan["user"] else None
    try:
        sandbox_walls.die_with_parent()
        if plan["namespaces"]:
            sandbox_walls.enter_namespaces(plan["namespaces"] == "user")
            owner = sandbox_walls.INSIDE_USER if plan["namespaces"] == "user" else user or 0
            sandbox_walls.move_into(job["folder"], folders, job["limits"]["folder_bytes"], owner)
    except OSError as error:
        return {"walls": str(error)}
    (said_by, say), (heard_by, tell) = os.pipe(), os.pipe()
    secret = os.urandom(16).hex().encode()
    child = os.fork()
    if child == 0:
        try:
            inside(job, [sandbox_walls, sandbox_filter, sandbox_tests], (folders, user), (say, heard_by))
        finally:
            os._exit(1)
    os.close(say)
    os.close(heard_by)
    os.write(tell, secret)
    os.close(tell)
    seconds = job["limits"]["seconds"]
    said, in_time = listen(said_by, child, WALL_SHARE * seconds + WALL_MORE_S)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    used = usage.ru_utime + usage.ru_stime
    late = not in_time or (os.WIFSIGNALED(status) and used >= 0.95 * seconds)
    reason = f"it took more than {seconds:g} s" if late else f"it ended before its tests did ({ending(status)})"
    return {"seconds": used, **verdict(said, secret, reason)}


def verdict(said: bytes, secret: bytes, reason: str) -> dict[str, Any]:
    """Of what the guarded process said; `reason`: why it says nothing, if it does not."""
    first, _, rest = said.partition(b"\n")
    if first != b"ready":
        return {"walls": first.decode(errors="replace") or reason}
    if rest == secret:
        return {"passed": True, "reason": ""}
    if rest.startswith(b"failed "):
        reason = rest[len(b"failed ") :].decode(errors="replace")[:LONGEST_REASON]
    return {"passed": False, "reason": reason}


def listen(handle: int, child: int, seconds: float) -> tuple[bytes, bool]:
    """What the child says until it ends, and whether it did so in time; more than is ever said ends it too.

    It has `seconds` by the clock, and as many again, up to MOST_TURNS times, while it computes: on a busy machine a
    program waits for its turn, and the limit on its computing is the kernel's.
    """
    said, used = b"", 0.0
    for _ in range(MOST_TURNS):
        deadline = time.monotonic() + seconds
        while len(said) <= MOST_SAID:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([handle], [], [], left)[0]:
                break
            piece = os.read(handle, 4096)
            if not piece:
                return said, True
            said += piece
        else:
            return said, True
        before, used = used, computed(child)
        if used - before < LEAST_SHARE * seconds:  # it waits for something else
            break
    return said, False


def computed(child: int) -> float:
    """Seconds that a process has computed so far, by the kernel's clock of it (see clock_getcpuclockid)."""
    try:
        return time.clock_gettime((~child << 3) | 2)
    except OSError:
        return 0.0


def ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit status {os.WEXITSTATUS(status)}"


def inside(
    job: dict[str, Any], modules: Sequence[Any], known: tuple[list[str], int | None], pipes: tuple[int, int]
) -> None:
    """The guarded process: close everything else, take the last rights away, run. It does not come back."""
    (sandbox_walls, sandbox_filter, sandbox_tests), (folders, user), plan = modules, known, job["plan"]
    say, heard_by = keep_two(*pipes)
    try:
        os.setsid()
        os.environ.clear()
        if not plan["namespaces"]:
            os.chdir(job["folder"])
        by_namespace = plan["namespaces"] == "user" and sandbox_walls.counts_by_namespace()
        sandbox_walls.set_limits(job["limits"], count_tasks=user is not None or by_namespace)
        sandbox_walls.become(user)
        sandbox_walls.die_with_parent()
        sandbox_filter.forbid_new_rights()
        if plan["landlock"]:
            sandbox_filter.show_only([*folders, job["folder"]])
        if plan["filter"]:
            alone = bool(plan["namespaces"])
            sandbox_filter.forbid_calls(sandbox_filter.Freedom(own_files=alone, own_processes=alone))
    except Exception as error:
        os.write(say, f"{type(error).__name__}: {error}".replace("\n", " ").encode())
        os._exit(1)
    os.write(say, b"ready\n")
    run(job["program"], (job["tests"], job["entry_point"], sandbox_tests), say, heard_by)


def keep_two(first: int, second: int) -> tuple[int, int]:
    """The two handles under numbers that are drawn; all others but the first three are closed."""
    low = 8 + os.urandom(1)[0] % 32
    for handle, place in ((first, low), (second, low + 3)):
        os.dup2(handle, place + 60)
    os.closerange(3, low + 60)
    os.closerange(low + 61, low + 63)
    os.closerange(low + 64, 256)
    return low + 60, low + 63


def run(program: str, tried: tuple[str, str | None, Any], say: int, heard_by: int) -> None:
    """Run the program, then its tests, in one module; say how it went, and end the process.

    `tried`: the tests, the function that they ask for, and the module that knows how they are run.
    What is used after the program has run is taken before it does, as it may put other things in their places; so are
    the builtins, which are put back before the tests.
    """
    read, write, leave, compiled, execute, failure = os.read, os.write, os._exit, compile, exec, BaseException
    own_builtins, restore, modules = builtins.__dict__, dict(builtins.__dict__), sys.modules
    tests, entry_point, sandbox_tests = tried
    told, called = describe, sandbox_tests.checks
    module = type(sys)("program")
    modules["program"] = module
    scope = module.__dict__
    if "random" in program:
        import random

        random.seed(0)
    try:
        code = compiled(program, PROGRAM, "exec")
        known = sandbox_tests.read(tests, TESTS)
        for name in [name for name in modules if name.partition(".")[0] == "llmtune"]:
            del modules[name]
        execute(code, scope)
        own_builtins.clear()
        own_builtins.update(restore)
        for name in ("unittest", "unittest.case", "unittest.mock", "doctest"):
            modules.pop(name, None)
        execute(known.code, scope)
        for check in called(scope, entry_point, known):
            check()
        write(say, read(heard_by, 64))
        leave(0)
    except failure as error:
        own_builtins.update(restore)
        try:
            said = told(error, program, tests)
        except failure:
            said = type(error).__name__
        write(say, b"failed " + said.encode(errors="replace")[: 4 * LONGEST_REASON])
        leave(1)


def describe(error: BaseException, program: str, tests: str) -> str:
    """The exception in one line, and the line of the tests or of the program where it was raised."""
    said = f"{type(error).__name__}: {error}".strip().rstrip(":")
    texts = {PROGRAM: program, TESTS: tests}
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} (line {error.lineno} of the {(error.filename or '')[1:-1]})"
    if isinstance(error, MemoryError):
        said = "MemoryError: it asked for more memory than it may have"
    place, trace = None, error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        # of a failed assertion the test's own line tells most
        if name in texts and (place is None or name == TESTS or not isinstance(error, AssertionError)):
            place = (name, trace.tb_lineno)
        trace = trace.tb_next
    if place is None:
        return " ".join(said.split())
    lines = texts[place[0]].splitlines()
    line = lines[place[1] - 1].strip() if place[1] <= len(lines) else ""
    where = "in" if place[0] == TESTS else f"in line {place[1]} of the program"
    return " ".join(f"{said[:160]} {where}: {line}".split())


if __name__ == "__main__":
    main()

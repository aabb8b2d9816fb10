"""Several processes from their parent's side: who is waited for, who is not, and what is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmtune.commands import worker
from llmtune.core.errors import Diverged, LlmtuneError, Stopped, UserError
from llmtune.run.files import write_json
from llmtune.run.signals import StopRequest, held_back

SAVES_FOR_A_SECOND = "import signal, sys, time; time.sleep(1); sys.exit(75)"
LISTENS_LATE = (
    "import time; time.sleep(0.5); from llmtune.run.signals import StopRequest; "
    "stop = StopRequest().listen(); raise SystemExit(75 if stop.name == 'SIGTERM' else 1)"
)


def python(code: str) -> subprocess.Popen[bytes]:
    with held_back():
        return subprocess.Popen([sys.executable, "-c", code])


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "GRACE_S", 0.2)


def test_one_that_stopped_does_not_hurry_one_that_saves() -> None:
    saving = python(SAVES_FOR_A_SECOND)
    assert worker.wait([saving, python("raise SystemExit(75)")], StopRequest()) == 75
    assert saving.returncode == 75


def test_one_that_failed_ends_those_that_wait_for_it() -> None:
    start = time.monotonic()
    waiting = python("import time; time.sleep(60)")
    assert worker.wait([waiting, python("raise SystemExit(3)")], StopRequest()) == 3
    assert waiting.returncode == -signal.SIGKILL
    assert time.monotonic() - start < 30


def test_a_signal_waits_until_a_process_listens() -> None:
    stop = StopRequest()
    stop.name = "SIGUSR1"
    assert worker.wait([python(LISTENS_LATE), python(LISTENS_LATE)], stop) == 75


@pytest.mark.parametrize(
    ("code", "kind"), [(1, LlmtuneError), (2, UserError), (3, Diverged), (75, Stopped)], ids=lambda value: str(value)
)
def test_what_the_first_that_failed_said_is_told(code: int, kind: type, tmp_path: Path) -> None:
    write_json(tmp_path / "ended-0.json", {"code": 75 if code != 75 else 1, "faults": ["of another"]})
    write_json(tmp_path / "ended-1.json", {"code": code, "faults": ["the reason", "and more"]})
    error = worker._error(code, tmp_path)
    assert type(error) is kind
    assert error.faults == ("the reason", "and more")


def test_one_that_was_killed_is_named(tmp_path: Path) -> None:
    assert "was killed by SIGKILL" in str(worker._error(-9, tmp_path))
    assert "ended with code 1" in str(worker._error(1, tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_processes_do_not_outlive_a_killed_parent() -> None:
    code = (
        "import os, subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'from llmtune.run import children; children.follower()(); "
        "print(1, flush=True); import time; time.sleep(60)'], stdout=subprocess.PIPE, start_new_session=True); "
        "child.stdout.read(1); print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and alive(child):
        time.sleep(0.05)
    assert not alive(child)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False

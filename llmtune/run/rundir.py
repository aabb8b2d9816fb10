"""A run's folder: made once, never shared, never overwritten; what lies in it and what it says of the run."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import yaml

from llmtune.core.errors import Fault, ResumeError
from llmtune.run.files import read_json, write_json, write_text

MAY_DIFFER = (
    "run", "resume", "sweep", "offline", "hardware",
    "train.epochs", "train.max_steps", "train.max_time", "train.patience", "train.keep", "train.verify_model",
    "train.eval_every", "train.save_every", "data.cache_dir", "model.path",
)  # fmt: skip
"""settings that a resumed run may change: they say how long, where and how often, not what is computed.
The model's own files are compared by their fingerprint, so its folder may have moved."""
PACKAGES = ("llmtune", "torch", "transformers", "tokenizers", "datasets", "accelerate", "safetensors", "hydra-core")


class RunDir:
    """The folder of one run and the paths in it."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = filelock.FileLock(path / ".lock", timeout=0)
        self._workers_lock = filelock.FileLock(path / ".lock-workers", timeout=0)

    config = property(lambda self: self.path / "config.yaml")
    overrides = property(lambda self: self.path / "overrides.yaml")
    run_json = property(lambda self: self.path / "run.json")
    data_report = property(lambda self: self.path / "data_report.json")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    speed = property(lambda self: self.path / "speed.jsonl")
    result = property(lambda self: self.path / "result.json")
    checkpoints = property(lambda self: self.path / "checkpoints")
    model = property(lambda self: self.path / "model")
    predictions = property(lambda self: self.path / "predictions.jsonl")
    log = property(lambda self: self.path / "train.log")

    def lock(self) -> None:
        """Hold the folder while working on it; a kill lets go.

        Raises:
            ResumeError: another process holds it.
        """
        try:
            self._lock.acquire()
            if Path(self._workers_lock.lock_file).exists():  # those of a start that was killed may still be saving
                self._workers_lock.acquire()
                self._workers_lock.release()
        except filelock.Timeout as error:
            raise ResumeError(Fault(str(self.path), "another process works on this run", "wait for it")) from error

    def lock_as_worker(self) -> None:
        """Hold the folder as the first of several processes, longer than their parent does if that is killed."""
        self._workers_lock.acquire()

    def write_config(self, plain: Mapping[str, Any]) -> None:
        """Keep the config; `resume` is of one start and not of the run."""
        text = yaml.safe_dump({**plain, "resume": None}, sort_keys=False, allow_unicode=True)
        write_text(self.config, text)

    def write_overrides(self, typed: list[str]) -> None:
        write_text(self.overrides, yaml.safe_dump(typed, allow_unicode=True))

    def read_config(self) -> dict[str, Any]:
        return yaml.safe_load(self.config.read_text(encoding="utf-8"))

    def update(self, **values: Any) -> None:
        """Set values in run.json; the others stay."""
        known = read_json(self.run_json) if self.run_json.exists() else {}
        write_json(self.run_json, {**known, **values})

    @property
    def status(self) -> str | None:
        try:
            return read_json(self.run_json).get("status")
        except (OSError, ValueError):
            return None


def refuse_taken(wanted: str) -> None:
    """Raises ResumeError if a new run can't have the folder `wanted`: it holds something."""
    path = Path(wanted).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ResumeError(
            Fault("run.dir", f"{wanted} is there already", "a new folder",
                  "resume=auto to go on with it, or another run.dir")
        )  # fmt: skip


def create(task: str, wanted: str | None, outputs: Path = Path("outputs")) -> RunDir:
    """Make a new folder: exactly `wanted`, or `outputs/<task>/<date>/<time>[-n]`. mkdir decides races.

    Raises:
        ResumeError: `wanted` is there already and not empty, or can't be made.
    """
    if wanted is not None:
        refuse_taken(wanted)
        _make(Path(wanted).expanduser(), exist_ok=True)
        return RunDir(Path(wanted).expanduser())
    now = datetime.datetime.now()
    day = outputs / task / now.strftime("%Y-%m-%d")
    _make(day, exist_ok=True)
    number = 1
    while True:
        path = day / (now.strftime("%H-%M-%S") + (f"-{number}" if number > 1 else ""))
        try:
            _make(path, exist_ok=False)
            return RunDir(path)
        except FileExistsError:
            number += 1


def _make(path: Path, *, exist_ok: bool) -> None:
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        raise
    except OSError as error:
        raise ResumeError(
            Fault("run.dir", f"{path} can't be made: {error.strerror}", "a folder that can be written",
                  "run.dir=DIR")
        ) from error  # fmt: skip


def newest_unfinished(task: str, plain: Mapping[str, Any], outputs: Path = Path("outputs")) -> RunDir | None:
    """The newest run of the same config under `outputs/<task>/` that has not finished."""
    wanted = fingerprint(plain)
    for path in sorted((outputs / task).glob("*/*"), key=lambda p: p.stat().st_mtime, reverse=True):
        run = RunDir(path)
        if run.config.exists() and run.status not in (None, "finished") and fingerprint(run.read_config()) == wanted:
            return run
    return None


def to_resume(config: Any, plain: Mapping[str, Any], say: Callable[[str], None]) -> RunDir | None:
    """The run that `resume` asks to go on with, or None for a new one.

    Raises:
        ResumeError: the folder holds no run, or one of another config.
    """
    if config.resume is None:
        return None
    if config.resume != "auto":
        path = Path(config.resume).expanduser()
    elif config.run.dir is not None:
        path = Path(config.run.dir).expanduser()
        if not path.exists() or not any(path.iterdir()):
            say(f"resume=auto: nothing in {path} yet, a new run")
            return None
    else:
        found = newest_unfinished(config.task.name, plain)
        if found is None:
            say(f"resume=auto: no unfinished run of this config under outputs/{config.task.name}/, a new run")
            return None
        path = found.path
    run = RunDir(path)
    if not run.config.exists():
        raise ResumeError(Fault("resume", f"{path} holds no run (no config.yaml)", "a run folder, auto or null"))
    faults = differences(run.read_config(), plain)
    if faults:
        raise ResumeError(*faults)
    say(f"goes on with {path}")
    return run


def asks_for_more(run: RunDir, plain: Mapping[str, Any]) -> bool:
    """Does this config train longer than the finished run did?"""
    before = run.read_config()["train"]
    return any(before.get(key) != plain["train"].get(key) for key in ("epochs", "max_steps"))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Fault]:
    """Settings that a resumed run may not change, and did."""
    before, after = _flat(_comparable(old)), _flat(_comparable(new))
    return [
        Fault(key, f"was {_shown(before.get(key))}, now {_shown(after.get(key))}",
              "this can't change when a run is gone on with", f"{key}={_shown(before.get(key))}")
        for key in sorted({*before, *after}) if before.get(key) != after.get(key)
    ]  # fmt: skip


def fingerprint(plain: Mapping[str, Any]) -> str:
    """A hash of every setting that decides what is computed."""
    return hashlib.sha256(json.dumps(_comparable(plain), sort_keys=True, default=str).encode()).hexdigest()[:16]


def _comparable(plain: Mapping[str, Any]) -> dict[str, Any]:
    kept = json.loads(json.dumps(plain, default=str))
    for key in MAY_DIFFER:
        *parents, last = key.split(".")
        node = kept
        for parent in parents:
            node = node.get(parent, {})
        node.pop(last, None)
    return kept


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def describe_start(command: list[str]) -> dict[str, Any]:
    """What produced the run: command, versions, git state, machine."""
    return {
        "command": command,
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **_versions()},
        "git": _git_state(),
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "process": os.getpid(),
        "cwd": os.getcwd(),
        "executable": sys.executable,
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the folder that the command was typed in; None outside git."""

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(ask("status", "--porcelain"))} if commit else None


def _shown(value: Any) -> str:
    """A value as one would type it."""
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value

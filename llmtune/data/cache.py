"""Folders of derived data under a key of everything they were made from: never stale, never half-written.

Layout: `<root>/<kind>/<first 32 digits of the key>/` with what `build` wrote and a `manifest.json`
(the key's parts; size and sha256 of every file).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import filelock

from llmtune.core.errors import LlmtuneError, Stopped

LOCK_TIMEOUT_S = 3600.0
MANIFEST = "manifest.json"
Log = Callable[[str], None]


def default_root() -> Path:
    """`$LLMTUNE_CACHE`, else `$XDG_CACHE_HOME/llmtune` or `~/.cache/llmtune`."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(os.environ.get("LLMTUNE_CACHE") or os.path.join(home, "llmtune"))


def file_sha(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def code_version(*modules: ModuleType) -> str:
    """sha256 over the source of modules: a change of the code that makes an entry is a change of its key."""
    text = "\x00".join(inspect.getsource(module) for module in modules)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def key_of(key_parts: dict[str, Any]) -> str:
    """sha256 of the parts as JSON; they must be plain (texts, numbers, lists, dicts)."""
    return hashlib.sha256(json.dumps(key_parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def cached(
    kind: str, key_parts: dict[str, Any], build: Callable[[Path], None], root: Path | None = None, log: Log = print,
    *, timeout_s: float = LOCK_TIMEOUT_S, should_stop: Callable[[], bool] = lambda: False,
) -> Path:  # fmt: skip
    """The folder that `build(folder)` filled for these key parts, now or before.

    Several processes may ask at once: one builds, the others wait. An entry whose files do not agree with its
    manifest is made anew. LlmtuneError when another process holds the entry for longer than `timeout_s`;
    Stopped when `should_stop()` turns true while waiting for it.
    """
    home = home_of(kind, root, log)
    key = key_of(key_parts)[:32]
    entry = home / key
    if _good(entry, log):
        log(f"{kind}: from the cache, {entry}")
        return entry
    home.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(home / f"{key}.lock")
    _acquire(lock, home / f"{key}.owner", kind, timeout_s, log, should_stop)
    try:
        if not entry.exists() or not _good(entry, log):
            _make(entry, key_parts, build)
            log(f"{kind}: made and kept in the cache, {entry}")
        return entry
    finally:
        (home / f"{key}.owner").unlink(missing_ok=True)
        lock.release()


def home_of(kind: str, root: Path | None, log: Log = print) -> Path:
    """The folder of all entries of a kind; aside where `root` can't be written."""
    return _writable(root or default_root(), log) / kind


def _writable(root: Path, log: Log) -> Path:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            return root
    except OSError as error:
        aside = Path(tempfile.gettempdir()) / f"llmtune-cache-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
        aside.mkdir(parents=True, exist_ok=True, mode=0o700)
        why = error.strerror or error
        log(f"cache: {root} can't be written ({why}); using {aside}. data.cache_dir=DIR chooses another")
        return aside


def _acquire(
    lock: filelock.BaseFileLock, owner: Path, kind: str, timeout_s: float, log: Log, should_stop: Callable[[], bool]
) -> None:
    holder, deadline = None, time.monotonic() + timeout_s
    while True:
        try:
            lock.acquire(timeout=0.2 if holder else 0)
            break
        except filelock.Timeout:
            if holder is None:
                holder = _holder(owner)
                log(f"{kind}: waiting for {holder}, which is making the same data")
            if should_stop():
                raise Stopped(f"stopped while waiting for {holder}, which makes the same {kind}") from None
            if time.monotonic() > deadline:
                raise LlmtuneError(
                    f"{kind}: {holder} has held {lock.lock_file} for {timeout_s:.0f} s; end it, or data.cache_dir=DIR"
                ) from None
    owner.write_text(f"process {os.getpid()}")


def _holder(owner: Path) -> str:
    try:
        return owner.read_text()
    except OSError:  # gone in this moment
        return "another process"


def _make(entry: Path, key_parts: dict[str, Any], build: Callable[[Path], None]) -> None:
    """Builds aside and renames: the entry is there whole or not at all."""
    for left in entry.parent.glob(f".{entry.name}-*"):  # by a builder that was killed: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
    try:
        build(aside)
        files = {
            str(path.relative_to(aside)): {"bytes": path.stat().st_size, "sha256": file_sha(path)}
            for path in sorted(aside.rglob("*"))
            if path.is_file()
        }
        manifest = {"key": key_parts, "files": files, "made": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
        if entry.exists():
            os.rename(entry, aside.with_suffix(".old"))
        os.rename(aside, entry)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(aside.with_suffix(".old"), ignore_errors=True)


def _good(entry: Path, log: Log) -> bool:
    """Whether the entry is there and every file has the size and content that the manifest says."""
    if not entry.exists():
        return False
    try:
        files = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, facts in files.items():
            if (entry / name).stat().st_size != facts["bytes"] or file_sha(entry / name) != facts["sha256"]:
                raise ValueError(f"{name} has changed")
    except (OSError, ValueError, KeyError, TypeError) as error:
        log(f"cache: {entry} is damaged ({error}); making it anew")
        return False
    return True

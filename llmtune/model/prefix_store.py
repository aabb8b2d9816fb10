"""Hidden states by row in one memory-mapped file, which several runs and processes read while one run fills it.

    prefix/<key>/hidden.bin    (tokens of all rows, D), room for all of it taken when it is made
                 filled.bin    crc32 of each row, 0 where it is not there; written only when the rows are on the disk
                 live.bin      which rows are there at this moment, for the processes of the run that fills it
                 entry.json    what the key was made of, its size; its time is that of the last use

Legend: B rows, T tokens, N rows of the table, L tokens of all its rows, D width.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import warnings
import zlib
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch

from llmtune.data.cache import key_of
from llmtune.run.files import fsync_dir, write_json

ENTRY, HIDDEN, FILLED, LIVE, LOCK = "entry.json", "hidden.bin", "filled.bin", "live.bin", "lock"
MOST_BYTES = 10 * 10**9
BLOCK = 1 << 24


def allowed_bytes(given: float | str, home: Path) -> int:
    """What all entries in `home` may take together; `auto`: 10 GB, or half of what the disk has for them."""
    if not isinstance(given, str):
        return int(given)
    place = next(folder for folder in (home, *home.parents) if folder.exists())
    return min(MOST_BYTES, (shutil.disk_usage(place).free + sum(_entries(home).values())) // 2)


class RowStore:
    """The hidden states of the rows of one table."""

    def __init__(
        self, folder: Path, lengths: np.ndarray, width: int, dtype: torch.dtype, *, writes: bool, lock: Any = None
    ):  # fmt: skip
        """`lock`: held by the one process that says what is on the disk; the others of its run write rows too."""
        self.folder = folder
        self.lengths = torch.from_numpy(np.asarray(lengths, dtype=np.int64))
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.writes = writes
        self._lock = lock
        self._hidden_LD = _mapped(folder / HIDDEN, dtype, writes).view(-1, width)
        self._live_N = _mapped(folder / LIVE, torch.uint8, writes).numpy() if writes else None
        self._sums_N = np.zeros(len(lengths), dtype=np.uint32)
        self._stamp = 0
        self.num_damaged = 0
        """rows that were not what their checksum says; they count as not there"""
        if lock is not None or not writes:
            self._refresh()

    @property
    def num_there(self) -> int:
        return int(np.count_nonzero(self._flags_N))

    @property
    def _flags_N(self) -> np.ndarray:
        return self._sums_N if self._live_N is None else self._live_N

    def has(self, rows: np.ndarray) -> np.ndarray:
        """Which of `rows` are there."""
        there_B = self._flags_N[rows] != 0
        if not self.writes and not there_B.all() and self._refresh():
            there_B = self._flags_N[rows] != 0
        return there_B

    def read(self, rows: np.ndarray, tokens: int) -> torch.Tensor:
        """hidden_BTD of rows that are there; what is padded repeats a row's last token."""
        rows_B = torch.from_numpy(rows)
        last_B1 = self.lengths[rows_B][:, None] - 1
        index_BT = self.starts[rows_B][:, None] + torch.minimum(torch.arange(tokens), last_B1)
        return self._hidden_LD.index_select(0, index_BT.flatten()).view(len(rows), tokens, -1)

    def write(self, rows: np.ndarray, hidden_BTD: torch.Tensor) -> None:
        """Keep rows; they count as there for this run, and for others after `flush`."""
        if self._live_N is None:
            return
        rows_B = torch.from_numpy(rows)
        at_T = torch.arange(hidden_BTD.shape[1])
        real_BT = at_T < self.lengths[rows_B][:, None]
        index_BT = self.starts[rows_B][:, None] + at_T
        self._hidden_LD[index_BT[real_BT]] = hidden_BTD.cpu()[real_BT]
        self._live_N[rows] = 1

    def flush(self) -> None:
        """Put the rows on the disk, and only then say that they are there: neither a kill nor a power cut can lie."""
        new = np.flatnonzero((self._flags_N != 0) & (self._sums_N == 0))
        if self._lock is None or not len(new):
            return
        for row in new:
            self._sums_N[row] = self._checksum(int(row))
        with open(self.folder / HIDDEN, "rb+") as file:
            os.fsync(file.fileno())
        aside = self.folder / f".{FILLED}.{os.getpid()}"
        with open(aside, "wb") as file:
            file.write(self._sums_N.tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, self.folder / FILLED)
        fsync_dir(self.folder)

    def close(self) -> None:
        """Flush; another process may fill it from now on."""
        self.flush()
        if self._lock is not None:
            self._lock.release()
        self.writes, self._lock, self._live_N = False, None, None

    def _checksum(self, row: int) -> int:
        start, length = int(self.starts[row]), int(self.lengths[row])
        return zlib.crc32(self._hidden_LD[start : start + length].view(torch.uint8).numpy().data) or 1

    def _refresh(self) -> bool:
        """Take note of rows that the disk has more than this process knows; True if there are any."""
        try:
            stamp = os.stat(self.folder / FILLED).st_mtime_ns
            if stamp == self._stamp:
                return False
            sums_N = np.fromfile(self.folder / FILLED, dtype=np.uint32)
        except FileNotFoundError:  # nothing was flushed yet, or the entry made room for others
            return False
        self._stamp = stamp
        new = np.flatnonzero((sums_N != 0) & (self._sums_N == 0))
        good = np.array([row for row in new if self._checksum(int(row)) == sums_N[row]], dtype=np.int64)
        self.num_damaged += len(new) - len(good)
        self._sums_N[good] = sums_N[good]
        if self._live_N is not None:
            self._live_N[good] = 1
        return bool(len(good))


def open_entry(
    home: Path, key_parts: dict[str, Any], lengths: np.ndarray, width: int, dtype: torch.dtype, budget: int
) -> RowStore:
    """The entry of these key parts, made if it is not there; it is filled by the first that opens it.

    Entries that were not used for longest make room.

    Raises:
        OSError: the budget or the disk is too small, with both sizes.
    """
    folder = entry_folder(home, key_parts)
    num_bytes = int(lengths.sum()) * width * dtype.itemsize
    home.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(home / LOCK):
        if not _whole(folder, num_bytes):
            shutil.rmtree(folder, ignore_errors=True)
            _make_room(home, num_bytes, budget)
            _make(folder, key_parts, num_bytes)
        os.utime(folder / ENTRY)
        lock = filelock.FileLock(folder / LOCK, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return RowStore(folder, lengths, width, dtype, writes=False)
        np.zeros(len(lengths), dtype=np.uint8).tofile(folder / LIVE)
        return RowStore(folder, lengths, width, dtype, writes=True, lock=lock)


def entry_folder(home: Path, key_parts: dict[str, Any]) -> Path:
    return home / key_of(key_parts)[:32]


def _whole(folder: Path, num_bytes: int) -> bool:
    try:
        return (folder / ENTRY).is_file() and (folder / HIDDEN).stat().st_size == num_bytes
    except OSError:
        return False


def _make(folder: Path, key_parts: dict[str, Any], num_bytes: int) -> None:
    folder.mkdir(parents=True)
    try:
        with open(folder / HIDDEN, "wb") as file:
            _take(file, num_bytes)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(f"{num_bytes / 1e9:.2f} GB can't be taken in {folder}: {error.strerror or error}") from error
    write_json(folder / ENTRY, {"key": key_parts, "bytes": num_bytes})


def _take(file: Any, num_bytes: int) -> None:
    """Take the room now: a full disk under a memory map would kill the process later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, num_bytes)
        return
    for start in range(0, num_bytes, BLOCK):
        file.write(bytes(min(BLOCK, num_bytes - start)))


def _make_room(home: Path, num_bytes: int, budget: int) -> None:
    """Delete entries that nobody holds, those unused for longest first, until `num_bytes` more are within `budget`."""
    if num_bytes > budget:
        raise OSError(f"{num_bytes / 1e9:.2f} GB are needed, {budget / 1e9:.2f} GB allowed")
    entries = _entries(home)
    for folder in home.iterdir():
        if folder.is_dir() and folder not in entries:  # its maker was killed; makers take turns, so none is at work
            shutil.rmtree(folder, ignore_errors=True)
    for folder in sorted(entries, key=lambda folder: (folder / ENTRY).stat().st_mtime_ns):
        if sum(entries.values()) + num_bytes <= budget:
            return
        lock = filelock.FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        del entries[folder]
    left = budget - sum(entries.values())
    if left < num_bytes:
        raise OSError(f"{num_bytes / 1e9:.2f} GB are needed, {left / 1e9:.2f} of {budget / 1e9:.2f} GB are not in use")


def _entries(home: Path) -> dict[Path, int]:
    """Bytes by folder."""
    found = {}
    for path in home.glob(f"*/{ENTRY}"):
        try:
            found[path.parent] = int(json.loads(path.read_text(encoding="utf-8"))["bytes"])
        except (OSError, ValueError, KeyError):
            shutil.rmtree(path.parent, ignore_errors=True)
    return found


def _mapped(path: Path, dtype: torch.dtype, writes: bool) -> torch.Tensor:
    """The file as a flat tensor, shared with all processes that map it."""
    with open(path, "rb+" if writes else "rb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        access = mmap.ACCESS_WRITE if writes else mmap.ACCESS_READ
        return torch.frombuffer(mmap.mmap(file.fileno(), 0, access=access), dtype=dtype)

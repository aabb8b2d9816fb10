"""Rows that a store says are there are there, whatever happens to the process, the disk, or other runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from llmtune.model import prefix_store
from llmtune.model.prefix_store import ENTRY, HIDDEN, RowStore, allowed_bytes, entry_folder, open_entry

LENGTHS = np.array([3, 7, 1, 5, 4])
WIDTH = 6
BYTES = 20 * WIDTH * 4


def opened(home: Path, name: str = "a", budget: float = 1e6, dtype: torch.dtype = torch.float32) -> RowStore:
    return open_entry(home, {"name": name}, LENGTHS, WIDTH, dtype, int(budget))


def states(rows: list[int], tokens: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """hidden_BTD that differ everywhere."""
    row_B11, at_1T1 = torch.tensor(rows).view(-1, 1, 1), torch.arange(tokens).view(1, -1, 1)
    return (100 * row_B11 + at_1T1 + torch.arange(WIDTH) / 10).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_was_written_is_read_back_at_any_width(tmp_path: Path, dtype: torch.dtype) -> None:
    store = opened(tmp_path, dtype=dtype)
    rows = np.array([3, 0, 2])
    store.write(rows, states([3, 0, 2], 9, dtype))
    found = store.read(rows, 6)
    assert found.dtype == dtype
    assert found.shape == (3, 6, WIDTH)
    for place, row in enumerate(rows):
        length = LENGTHS[row]
        assert torch.equal(found[place, :length], states([row], length, dtype)[0])
        assert torch.equal(found[place, length:], found[place, length - 1].expand(6 - length, WIDTH))
    assert store.has(np.arange(5)).tolist() == [True, False, True, True, False]


def test_rows_count_for_others_once_they_are_flushed(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.write(np.array([1]), states([1], 7))
    second = opened(tmp_path)
    assert first.writes
    assert not second.writes
    assert second.num_there == 0
    second.write(np.array([4]), states([4], 4))
    assert not second.has(np.array([4])).any()
    first.flush()
    assert second.has(np.array([1])).all()
    assert torch.equal(second.read(np.array([1]), 7), states([1], 7))
    first.close()
    assert opened(tmp_path).writes


def test_a_killed_process_leaves_only_what_it_flushed(tmp_path: Path) -> None:
    script = (
        "import os, signal; from tests.unit.model.test_prefix_store import *\n"
        f"store = opened(Path({str(tmp_path)!r}))\n"
        "store.write(np.array([0, 2]), states([0, 2], 3)); store.flush()\n"
        "store.write(np.array([1]), states([1], 7)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[3]
    killed = subprocess.run([sys.executable, "-c", script], cwd=root, check=False)
    assert killed.returncode == -9
    store = opened(tmp_path)
    assert store.writes
    assert store.has(np.arange(5)).tolist() == [True, False, True, False, False]
    assert torch.equal(store.read(np.array([0]), 3), states([0], 3))


def test_damaged_rows_count_as_not_there(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(np.arange(5), states([0, 1, 2, 3, 4], 7))
    store.close()
    path = entry_folder(tmp_path, {"name": "a"}) / HIDDEN
    with path.open("rb+") as file:
        file.seek(4 * WIDTH * 4)  # in row 1
        file.write(b"\xff")
    store = opened(tmp_path)
    assert store.num_damaged == 1
    assert store.has(np.arange(5)).tolist() == [True, False, True, True, True]


def test_an_entry_of_another_size_is_made_anew(tmp_path: Path) -> None:
    opened(tmp_path).close()
    os.truncate(entry_folder(tmp_path, {"name": "a"}) / HIDDEN, 11)
    store = opened(tmp_path)
    assert store.num_there == 0
    store.write(np.array([1]), states([1], 7))


def test_the_least_recently_used_makes_room(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        opened(tmp_path, name, budget=3 * BYTES).close()
        when = time.time() - 100 + number
        os.utime(entry_folder(tmp_path, {"name": name}) / ENTRY, (when, when))
    opened(tmp_path, "a", budget=3 * BYTES).close()  # used now
    held = opened(tmp_path, "d", budget=3 * BYTES)
    there = {name for name in "abcd" if entry_folder(tmp_path, {"name": name}).exists()}
    assert there == {"a", "c", "d"}
    held_too = opened(tmp_path, "e", budget=2 * BYTES)
    with pytest.raises(OSError, match="are not in use"):
        opened(tmp_path, "f", budget=2 * BYTES)
    assert entry_folder(tmp_path, {"name": "d"}).exists()
    assert held.writes
    assert held_too.writes


def test_too_little_room_is_told_with_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"0\.00 GB are needed, 0\.00 GB allowed"):
        opened(tmp_path, budget=BYTES - 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prefix_store, "_take", full)
    with pytest.raises(OSError, match=r"can't be taken in .*: No space left on device"):
        opened(tmp_path)
    assert not entry_folder(tmp_path, {"name": "a"}).exists()


def test_what_a_killed_maker_left_is_swept_up(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / HIDDEN).write_bytes(b"0" * 100)
    opened(tmp_path)
    assert not (tmp_path / "half").exists()


def test_auto_allows_half_of_what_is_free(tmp_path: Path) -> None:
    assert 0 < allowed_bytes("auto", tmp_path / "not" / "yet") <= prefix_store.MOST_BYTES
    assert allowed_bytes(5e9, tmp_path) == 5 * 10**9

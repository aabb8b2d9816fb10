"""Cache entries: whole or not there, made once, never stale."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import filelock
import pytest

from llmtune.core.errors import LlmtuneError, Stopped
from llmtune.data.cache import cached, code_version, default_root, key_of


@pytest.fixture
def make(tmp_path):
    """`make(key, ...)`: an entry whose file holds the number of builds so far; and what was said."""
    built: list[int] = []
    said: list[str] = []

    def make_entry(build=None, **key):
        def write(folder):
            built.append(1)
            (folder / "x.txt").write_text(str(len(built)))

        return (cached("things", key, build or write, tmp_path / "cache", said.append) / "x.txt").read_text()

    make_entry.said = said
    return make_entry


def test_entry_is_made_once_for_a_key(make):
    assert [make(a=1), make(a=1), make(a=2), make(a=1)] == ["1", "1", "2", "1"]
    assert [line.split(",")[0] for line in make.said[:2]] == [
        "things: made and kept in the cache",
        "things: from the cache",
    ]


@pytest.mark.parametrize("harm", ["alter", "truncate", "remove", "manifest"])
def test_damaged_entry_is_made_anew_and_said(make, tmp_path, harm):
    make(a=1)
    path = next((tmp_path / "cache").rglob("manifest.json" if harm == "manifest" else "x.txt"))
    if harm == "remove":
        path.unlink()
    else:
        path.write_text({"alter": "9", "truncate": "", "manifest": "{"}[harm])
    assert make(a=1) == "2"
    assert any("is damaged" in line and "making it anew" in line for line in make.said)
    assert make(a=1) == "2"


def test_failed_build_leaves_nothing(make, tmp_path):
    def fail(folder):
        (folder / "x.txt").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        make(build=fail, a=1)
    assert not list((tmp_path / "cache").rglob("x.txt"))
    assert make(a=1) == "1"


def test_waiting_for_another_process_ends(tmp_path):
    entry = tmp_path / "things" / key_of({"a": 1})[:32]
    entry.parent.mkdir(parents=True)
    said = []
    with filelock.FileLock(f"{entry}.lock"), pytest.raises(LlmtuneError, match=r"has held .* for 0 s"):
        cached("things", {"a": 1}, lambda folder: None, tmp_path, said.append, timeout_s=0.2)
    assert said == ["things: waiting for another process, which is making the same data"]


def test_eight_processes_make_one_entry(tmp_path):
    program = tmp_path / "job.py"
    program.write_text(
        textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from llmtune.data.cache import cached
        root = Path(sys.argv[1])
        def build(folder):
            with open(root / "builds", "a") as file:
                file.write("built\\n")
            time.sleep(0.3)
            (folder / "x.txt").write_text("same")
        while not (root / "go").exists():
            time.sleep(0.01)
        print((cached("things", {"a": 1}, build, root, lambda line: None) / "x.txt").read_text())
        """)
    )
    jobs = [
        subprocess.Popen(
            [sys.executable, str(program), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    (tmp_path / "go").touch()
    outputs = [job.communicate(timeout=120) for job in jobs]
    assert outputs == [("same\n", "")] * 8
    assert (tmp_path / "builds").read_text() == "built\n"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_root_falls_back(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o500)
    said = []
    cached("things", {"a": tmp_path.name}, lambda folder: None, tmp_path / "cache", said.append)
    assert "can't be written" in said[0]


def test_root_that_is_a_file_falls_back(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "cache").touch()
    said = []
    entry = cached("things", {"a": 1}, lambda folder: None, tmp_path / "cache", said.append)
    assert entry.is_dir()
    assert "can't be written" in said[0]
    assert "data.cache_dir=DIR chooses another" in said[0]


def test_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMTUNE_CACHE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("LLMTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "llmtune"


def test_code_version_follows_the_source():
    assert code_version(textwrap) == code_version(textwrap)
    assert code_version(textwrap) != code_version(textwrap, filelock)


def test_a_stop_ends_the_waiting(tmp_path):
    (tmp_path / "things").mkdir()
    with filelock.FileLock(tmp_path / "things" / f"{key_of({'a': 1})[:32]}.lock"), pytest.raises(Stopped):
        cached("things", {"a": 1}, lambda folder: None, tmp_path, lambda line: None, should_stop=lambda: True)


def test_what_a_killed_builder_left_is_swept_up(tmp_path):
    left = tmp_path / "things" / f".{key_of({'a': 1})[:32]}-abcd"
    left.mkdir(parents=True)
    cached("things", {"a": 1}, lambda folder: None, tmp_path, lambda line: None)
    assert not left.exists()

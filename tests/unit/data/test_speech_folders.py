"""Corpora of speech in the forms that they are shipped in, and rows that name recordings."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import pytest

from llmtune.core.errors import DataError
from llmtune.data.roles import AUDIO, TRANSCRIPT
from llmtune.data.rows import RawSplits

ROLES = (AUDIO, TRANSCRIPT)


def clip(path: Path, samples: int = 400) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        file.writeframes(bytes([128, 140] * (samples // 2)))
    return path


def rows_of(raw: RawSplits) -> list[tuple[str, str]]:
    rows = raw.splits["train"]
    return [(Path(path).name, text) for path, text in zip(rows["audio"], rows["transcript"])]


def test_a_table_names_recordings_as_seen_from_where_it_lies(folder: Path, read: Any) -> None:
    home = folder / "corpus"
    for name in ("a.wav", "clips/b.wav", "deep/c.wav"):
        clip(home / name)
    lines = [{"path": "a.wav", "sentence": "one"}, {"path": "b.wav", "sentence": "two"},
             {"path": str(home / "deep" / "c.wav"), "sentence": "three"}]  # fmt: skip
    (home / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    raw = read(roles=ROLES, train="corpus/train.jsonl")
    assert rows_of(raw) == [("a.wav", "one"), ("b.wav", "two"), ("c.wav", "three")]
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in raw.splits["train"]["audio"])


def test_the_same_table_in_another_folder_names_other_recordings(folder: Path, read: Any) -> None:
    found = []
    for home in (folder / "one", folder / "two"):
        clip(home / "a.wav")
        (home / "train.csv").write_text("file_name,transcription\na.wav,yes\n")
        found.append(read(roles=ROLES, train=str(home / "train.csv")).splits["train"]["audio"][0])
    assert [Path(path).parent.name for path in found] == ["one", "two"]


def test_a_folder_with_a_table_and_a_folder_of_clips(folder: Path, read: Any) -> None:
    home = folder / "corpus"
    clip(home / "clips" / "a.wav")
    (home / "metadata.csv").write_text("file_name,transcription\nclips/a.wav,yes it is\n")
    assert rows_of(read(roles=ROLES, train=str(home))) == [("a.wav", "yes it is")]


def test_librispeech(folder: Path, read: Any) -> None:
    chapter = folder / "libri" / "84" / "121"
    for number in range(2):
        clip(chapter / f"84-121-000{number}.wav")
    (chapter / "84-121.trans.txt").write_text("84-121-0000 GO DO YOU HEAR\n84-121-0001 BUT IN LESS\n")
    raw = read(roles=ROLES, train=str(folder / "libri"))
    assert rows_of(raw) == [("84-121-0000.wav", "GO DO YOU HEAR"), ("84-121-0001.wav", "BUT IN LESS")]
    assert raw.splits["train"]["line"] == [1, 2]
    assert raw.report["splits"]["train"]["found"][0]["layout"] == "LibriSpeech"


@pytest.mark.parametrize("as_file", [False, True])
def test_ljspeech(folder: Path, read: Any, as_file: bool) -> None:
    home = folder / "LJ"
    for number in (1, 2):
        clip(home / "wavs" / f"LJ-000{number}.wav")
    (home / "metadata.csv").write_text("LJ-0001|In 1890|In eighteen ninety\nLJ-0002|yes, \"quite\" so|\n")
    raw = read(roles=ROLES, train=str(home / "metadata.csv" if as_file else home))
    assert rows_of(raw) == [("LJ-0001.wav", "In eighteen ninety"), ("LJ-0002.wav", 'yes, "quite" so')]


def test_a_text_beside_each_recording(folder: Path, read: Any) -> None:
    home = folder / "clips"
    for name in ("a", "b"):
        clip(home / f"{name}.wav")
        (home / f"{name}.txt").write_text(f"this is\n{name}\n")
    assert rows_of(read(roles=ROLES, train=str(home))) == [("a.wav", "this is a"), ("b.wav", "this is b")]
    (home / "a.txt").write_text("another\n")
    assert rows_of(read(roles=ROLES, train=str(home)))[0] == ("a.wav", "another")  # and no row of the cache


def test_what_is_wrong_is_told_by_file_and_line(folder: Path, read: Any) -> None:
    clip(folder / "good.wav")
    clip(folder / "silent.wav", 0)
    (folder / "empty.wav").write_bytes(b"")
    lines = ["good.wav,one", "gone.wav,two", "empty.wav,three", "silent.wav,four", "good.wav,"]
    (folder / "train.csv").write_text("audio,transcript\n" + "\n".join(lines) + "\n")
    with pytest.raises(DataError) as found:
        read(roles=ROLES, train=str(folder / "train.csv"))
    message = str(found.value)
    for line, reason in ((3, "no file"), (4, "is empty (0 bytes)"), (5, "holds no sound"), (6, "empty text")):
        assert f"train.csv:{line}" in message
        assert reason in message
    kept = read(roles=ROLES, train=str(folder / "train.csv"), on_bad_row="drop")
    assert rows_of(kept) == [("good.wav", "one")]


def test_recordings_alone_can_not_be_learnt_from(folder: Path, read: Any) -> None:
    clip(folder / "clips" / "a.wav")
    with pytest.raises(DataError, match="holds recordings, and nothing says what is said in them"):
        read(roles=ROLES, train=str(folder / "clips"))


def test_a_folder_of_classes_is_still_one(folder: Path, read: Any) -> None:
    from llmtune.data.files.sources import find_sources

    for name in ("good", "bad"):
        (folder / "texts" / name).mkdir(parents=True)
        (folder / "texts" / name / "1.txt").write_text("a text")
    assert [source.format for source in find_sources("train", str(folder / "texts"))] == ["text_folders"]

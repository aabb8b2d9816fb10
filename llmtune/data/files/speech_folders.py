"""Folders of recordings as corpora of speech come: LibriSpeech, LJSpeech, a text beside each recording, or none.

LibriSpeech: files `*.trans.txt`, anywhere below, with lines `ID TEXT` for ID.flac beside them. LJSpeech: a file with
lines `ID|TEXT|TEXT IN WORDS` for wavs/ID.wav. Folders whose transcripts are in a table (CSV, TSV, JSONL, Parquet) are
read as that table is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from llmtune.config.settings import DataSettings
from llmtune.core.errors import DataError, Fault
from llmtune.data.cache import file_sha
from llmtune.data.files.sources import Source
from llmtune.data.files.tables import Line, Table
from llmtune.data.files.text_encoding import find_encoding, open_text, reading
from llmtune.data.forms.audio import SUFFIXES

TRANSCRIPTS = ".trans.txt"
LISTS = ("metadata.csv", "metadata.txt")
PIECE = re.compile(r"[^|\s]+\|.*")
"""a line of LJSpeech"""


def looks_like(lines: list[str]) -> bool:
    """Is a file that begins so a list of LJSpeech? a folder shows what it is by its files (`is_corpus`)."""
    filled = [line for line in lines if line.strip()]
    names = [Path(line.split("|")[0]) for line in filled]
    alike = all(PIECE.fullmatch(line) and line.count("|") == filled[0].count("|") for line in filled)
    return bool(filled) and alike and not any(map(_is_recording, names))


def is_corpus(folder: Path) -> bool:
    """Is a folder to be read by this module? Not one with its transcripts in a table with names."""
    if _list_of(folder) is not None or any(_ending_in(folder, (TRANSCRIPTS,))):
        return True
    files = [entry for entry in folder.iterdir() if entry.is_file()]
    tables = [file for file in files if file.suffix.lower() in (".csv", ".tsv", ".jsonl", ".json", ".parquet")]
    return not tables and any(map(_is_recording, files))


def holds_recordings(folder: Path) -> bool:
    """Are there recordings right in it?"""
    return any(_is_recording(entry) for entry in folder.iterdir())


def files_of(source: Source) -> list[Path]:
    """The files with transcripts, and the recordings where those are all that there is, sorted."""
    if source.path.is_file():
        return [source.path]
    listed = _list_of(source.path)
    if listed is not None:
        return [listed]
    found = sorted(_ending_in(source.path, (TRANSCRIPTS,)))
    return found or sorted(entry for entry in source.path.iterdir() if _is_recording(entry))


def content(source: Source) -> list[tuple[str, str | None]]:
    """What changes when the rows of a source change: each file with a hash of its transcripts."""
    found: list[tuple[str, str | None]] = []
    for file in files_of(source):
        told = file.with_suffix(".txt") if _is_recording(file) else file
        found.append((str(file), file_sha(told) if told.is_file() else None))
    return found


def read_table(source: Source, settings: DataSettings) -> Table:
    """Rows of audio (the full path) and transcript; `line` is that of the transcript.

    Raises:
        DataError: there is no recording and no transcript.
    """
    files = files_of(source)
    if not files:
        raise DataError(Fault(source.shown, "holds neither recordings nor transcripts", f"{', '.join(SUFFIXES)}"))
    if _is_recording(files[0]):
        told = any(file.with_suffix(".txt").is_file() for file in files)
        names = ["audio", "transcript"] if told else ["audio"]
        layout = "a text beside each recording" if told else "recordings alone"
        return Table(source.shown, names, len(names), lambda: _beside(source, files, settings, told),
                     found={"layout": layout}, fixed=True)  # fmt: skip
    is_libri = files[0].name.endswith(TRANSCRIPTS)

    def rows() -> Iterator[Line]:
        for file in files:
            yield from (_libri if is_libri else _lj)(file, _shown(source, file), settings)

    return Table(source.shown, ["audio", "transcript"], 2, rows,
                 found={"layout": "LibriSpeech" if is_libri else "LJSpeech"}, fixed=True)  # fmt: skip


def _libri(file: Path, shown: str, settings: DataSettings) -> Iterator[Line]:
    for number, line in _lines(file, shown, settings):
        name, _, text = line.strip().partition(" ")
        yield shown, number, {"audio": _recording(file.parent, name, ".flac"), "transcript": text.strip()}, None


def _lj(file: Path, shown: str, settings: DataSettings) -> Iterator[Line]:
    """The last field is the text with numbers in words, where there is one."""
    folders = [folder for folder in (file.parent / "wavs", file.parent) if folder.is_dir()]
    for number, line in _lines(file, shown, settings):
        name, *texts = (part.strip() for part in line.split("|"))
        if not texts:
            yield shown, number, None, "no text: a line is ID|TEXT"
            continue
        text = next((text for text in reversed(texts) if text), "")
        yield shown, number, {"audio": _recording(folders[0], name, ".wav"), "transcript": text}, None


def _beside(source: Source, files: list[Path], settings: DataSettings, told: bool) -> Iterator[Line]:
    for file in files:
        text, row = file.with_suffix(".txt"), {"audio": os.path.abspath(file)}
        if not told:
            yield _shown(source, file), 1, row, None
        elif not text.is_file():  # a row to predict, all the same
            yield _shown(source, file), 1, {**row, "transcript": None}, f"no {text.name} beside it"
        else:
            said = " ".join(line.strip() for _, line in _lines(text, _shown(source, text), settings))
            yield _shown(source, text), 1, {**row, "transcript": said}, None


def _lines(file: Path, shown: str, settings: DataSettings) -> Iterator[tuple[int, str]]:
    encoding = find_encoding(file, shown, settings.encoding)
    with reading(shown, encoding.name), open_text(file, encoding) as opened:
        for number, line in enumerate(opened, 1):
            if line.strip():
                yield number, line.rstrip("\r\n")


def _recording(folder: Path, name: str, usual: str) -> str:
    """The full path of a recording that is named with its ending or without."""
    plain = folder / name
    tried = [plain] if _is_recording(plain) else [folder / f"{name}{ending}" for ending in (usual, *SUFFIXES)]
    return os.path.abspath(next((path for path in tried if path.is_file()), tried[0]))


def _list_of(folder: Path) -> Path | None:
    """The list of an LJSpeech folder."""
    for name in LISTS:
        path = folder / name
        if path.is_file() and (folder / "wavs").is_dir():
            encoding = find_encoding(path, str(path), "auto")
            with reading(str(path), encoding.name), open_text(path, encoding) as opened:
                if looks_like([line.rstrip("\r\n") for _, line in zip(range(20), opened)]):
                    return path
    return None


def _ending_in(folder: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place) / name for name in sorted(names) if name.endswith(endings))


def _is_recording(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _shown(source: Source, file: Path) -> str:
    return source.shown if file == source.path else os.path.join(source.shown, os.path.relpath(file, source.path))

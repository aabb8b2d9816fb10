"""What `data.train` and its like name: files, globs, folders of classes, packaged samples or hub data sets."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from llmtune.core.errors import DataError, Fault, did_you_mean
from llmtune.data.files.text_encoding import OPENERS

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "text",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".conll": "conll",
    ".bio": "conll",
    ".bioes": "conll",
    ".bmes": "conll",
    ".conllu": "conllu",
}
SAMPLES = Path(__file__).parents[2] / "samples"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(/[\w.+-]+)?(@[\w.+-]+)?")
BRACES = re.compile(r"\{([^{},]+),([^{},]+)\}")
"""in a path: the two files that it names are read side by side"""
LANGUAGE = re.compile(r"[a-z]{2,3}([_-][a-z]{2,4})?|src|tgt|source|target", re.IGNORECASE)
"""a part of a name that says which side of a translation a file is"""
SPLIT_WORD = re.compile(r"(^|[^a-z])(train|training|dev|val|valid|validation|test)([^a-z]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """One thing to read rows from."""

    format: str
    """csv, tsv, text, lines, json, jsonl, parquet, text_folders, hub, or one with a module of its own (see layouts)"""
    shown: str
    """as the user wrote it: what messages and the column `file` say"""
    path: Path = Path()
    """of the file or folder; unused for the hub"""
    beside: Source | None = None
    """of two files that belong together line by line (data.files.parallel) the second"""


def find_sources(split: str, given: str | list[str], format: str = "auto") -> list[Source]:
    """The sources of one split, sorted within a glob; DataError with all faults."""
    sources: list[Source] = []
    faults: list[Fault] = []
    for item in _paired([given] if isinstance(given, str) else given, format):
        try:
            if isinstance(item, tuple):
                sources.append(_two_sides(f"data.{split}", item))
            else:
                sources += _sources_of(f"data.{split}", item, format)
        except DataError as error:
            faults += [fault for fault in error.faults if isinstance(fault, Fault)]
    if not given:
        faults.append(Fault(f"data.{split}", "the list is empty", "", f"data.{split}=FILE"))
    if faults:
        raise DataError(*faults)
    return sources


def _paired(items: list[str], format: str) -> list[str | tuple[str, ...]]:
    """`items`, with tuples for what is to be read side by side: `a.{en,de}`, and two neighbours where format=parallel
    or two names that say so (`a.en` and `a.de`)."""
    found: list[str | tuple[str, ...]] = []
    place = 0
    while place < len(items):
        two = tuple(items[place : place + 2])
        if BRACES.search(items[place]) and not Path(items[place]).exists():
            found.append(tuple(BRACES.sub(rf"\{side}", items[place]) for side in (1, 2)))
        elif format == "parallel" or (format == "auto" and _are_two_sides(two)):
            found.append(two)
            place += len(two) - 1
        else:
            found.append(items[place])
        place += 1
    return found


def _are_two_sides(items: tuple[str, ...]) -> bool:
    """Do two names tell no format and differ in nothing but a language?"""
    paths = [Path(item) for item in items]
    if len(paths) < 2 or any(map(format_of, paths)) or not any(path.is_file() for path in paths):
        return False
    first, second = (re.split(r"[./]", item) for item in items)
    unlike = {pair for pair in zip(first, second) if pair[0] != pair[1]}
    return len(first) == len(second) and len(unlike) == 1 and all(LANGUAGE.fullmatch(part) for part in unlike.pop())


def _two_sides(where: str, items: tuple[str, ...]) -> Source:
    if len(items) < 2:
        given = f"{items[0]!r} is one file, data.format=parallel needs two: of the sources and of the targets"
        raise DataError(Fault(where, given, "", f"{where}='[train.en,train.de]' or {where}='train.{{en,de}}'"))
    paths = {item: Path(item).expanduser() for item in items}
    missing = [_missing(where, item, path) for item, path in paths.items() if not path.is_file()]
    if missing:
        raise DataError(*missing)
    first, second = (_file(where, paths[item], item, "parallel") for item in items)
    return replace(first, beside=second)


def _sources_of(where: str, item: str, format: str) -> list[Source]:
    if item.startswith("hub:"):
        return [Source("hub", item[4:])]
    if item.startswith("builtin:"):
        path = SAMPLES / item[len("builtin:") :]
        if not path.is_file():
            raise DataError(Fault(where, f"{item!r} does not ship with llmtune"))
        return [_file(where, path, item, format)]
    path = Path(item).expanduser()
    if path.is_file():
        return [_file(where, path, item, format)]
    if path.is_dir():
        return _folder(where, path, item, format)
    if any(mark in item for mark in "*?["):
        found = sorted(name for name in glob.glob(str(path), recursive=True) if os.path.isfile(name))
        if not found:
            raise DataError(Fault(where, f"no file matches {item!r}", f"looked from {os.getcwd()}"))
        return [_file(where, Path(name), name, format) for name in found]
    if HUB_NAME.fullmatch(item) and not _looks_like_a_file(path):
        return [Source("hub", item)]
    raise DataError(_missing(where, item, path))


def _looks_like_a_file(path: Path) -> bool:
    return path.suffix.lower() in FORMATS.keys() | OPENERS.keys() or (path.parent.is_dir() and path.parent != Path())


def _missing(where: str, item: str, path: Path) -> Fault:
    parent = path.parent
    if not parent.is_dir():
        return Fault(
            where, f"{item!r} does not exist: there is no folder {str(parent)!r}", f"looked from {os.getcwd()}"
        )
    names = sorted(entry.name for entry in parent.iterdir())
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return Fault(
        where, f"{item!r} does not exist", f"the folder holds {shown or 'nothing'}", did_you_mean(path.name, names)
    )


def format_of(path: Path) -> str | None:
    """The format that a file's name tells, compression apart; None where it tells nothing."""
    plain = path.with_suffix("") if path.suffix.lower() in OPENERS else path
    return FORMATS.get(plain.suffix.lower())


def _file(where: str, path: Path, shown: str, format: str) -> Source:
    found = format_of(path)
    if format in ("auto", "text_folders") and found is None:
        raise DataError(
            Fault(
                where,
                f"{shown!r} has a name that does not tell its format",
                "known: " + " ".join([*FORMATS, *("+" + ending for ending in OPENERS)]),
                "data.format=csv, or data.format=lines for one text a line",
            )
        )
    if path.stat().st_size == 0:
        raise DataError(Fault(where, f"{shown!r} is empty (0 bytes)"))
    if format == "lines" and found not in (None, "text"):
        format = "auto"  # a name that tells another format is believed
    return Source(found or "csv" if format in ("auto", "text_folders") else format, shown, path)


def _folder(where: str, path: Path, shown: str, format: str) -> list[Source]:
    from llmtune.data.files import speech_folders  # which knows sources

    if format == "speech_folders" or (format == "auto" and speech_folders.is_corpus(path)):
        return [Source("speech_folders", shown, path)]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir() and not speech_folders.holds_recordings(entry)]
    if folders and format in ("auto", "text_folders"):
        if any(child.is_file() for folder in folders for child in folder.iterdir()):
            return [Source("text_folders", shown, path)]
        names = ", ".join(folder.name for folder in folders[:8])
        raise DataError(
            Fault(
                where,
                f"no folder in {shown!r} holds files",
                f"it holds the folders {names}",
                f"data.train={shown}/{folders[0].name}",
            )
        )
    files = [entry for entry in entries if entry.is_file() and (format != "auto" or _holds_rows(entry))]
    below = sorted(entry for entry in path.rglob("*") if entry.is_file() and entry.parent != path)
    if folders and below and format not in ("auto", "text_folders"):
        given = f"the folder {shown!r} holds {len(files)} file(s), and {len(below)} in folders below it"
        fix = f"'{where}={shown}/**/*{below[0].suffix}' takes all, '{where}={shown}/*' those of the folder alone"
        raise DataError(Fault(where, given, "", f"type {fix}"))
    if not files:
        raise DataError(Fault(where, f"the folder {shown!r} holds neither data files nor a folder per class"))
    words = {match[2].lower() for file in files if (match := SPLIT_WORD.search(file.name))}
    if len(words) > 1:
        names = ", ".join(file.name for file in files[:8])
        given = f"the folder {shown!r} holds files of several splits: {names}"
        raise DataError(Fault(where, given, "", f"{where}={os.path.join(shown, files[0].name)}"))
    return [_file(where, file, os.path.join(shown, file.name), format) for file in files]


def _holds_rows(path: Path) -> bool:
    return format_of(path) is not None and path.suffix.lower() != ".txt"


def class_folders(source: Source) -> list[Path]:
    """The class folders of a `text_folders` source that hold files, sorted."""
    folders = sorted(entry for entry in source.path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return [folder for folder in folders if any(child.is_file() for child in folder.iterdir())]

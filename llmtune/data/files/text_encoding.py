"""Bytes to text: compression, byte order marks, and which encoding a file is written in."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from llmtune.core.errors import DataError, Fault

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
CHUNK_BYTES = 1 << 20
MARKS = {
    codecs.BOM_UTF8: ("utf-8-sig", "utf-8 with BOM"),
    codecs.BOM_UTF32_LE: ("utf-32", "utf-32"),
    codecs.BOM_UTF32_BE: ("utf-32", "utf-32"),
    codecs.BOM_UTF16_LE: ("utf-16", "utf-16"),
    codecs.BOM_UTF16_BE: ("utf-16", "utf-16"),
}
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Encoding:
    """How to read a file as text. `said` is what the report tells."""

    name: str
    said: str
    newline: str = "\n"
    """"\\n": only that ends a line, so that a stray carriage return inside a text stays in it; "": old Mac files"""


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, unpacked when its name ends in .gz, .bz2 or .xz."""
    return cast(BinaryIO, OPENERS.get(path.suffix.lower(), open)(path, "rb"))


@contextlib.contextmanager
def reading(shown: str, encoding: str = "utf-8") -> Iterator[None]:
    """What can go wrong with a file's bytes while they are read, as a DataError that names the file."""
    try:
        yield
    except UnicodeError as error:  # of UTF-16 without a byte order mark it is no UnicodeDecodeError
        place = f"{error.reason} at byte {error.start}" if isinstance(error, UnicodeDecodeError) else error
        raise DataError(Fault(shown, f"can't be read as {encoding}: {place}", "", "data.encoding=auto")) from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(
            Fault(shown, f"the compressed file is damaged: {error}", "", "copy or download it again")
        ) from error
    except OSError as error:
        raise DataError(Fault(shown, f"can't be read: {error.strerror or error}")) from error


def open_text(path: Path, encoding: Encoding) -> TextIO:
    """The file as text; bytes that can't be decoded become surrogates, so that their row alone is bad."""
    wide = encoding.name.replace("_", "-").startswith(("utf-16", "utf-32"))
    return io.TextIOWrapper(
        open_bytes(path), encoding.name, errors="strict" if wide else "surrogateescape", newline=encoding.newline
    )


def find_encoding(path: Path, shown: str, setting: str = "auto") -> Encoding:
    """The encoding set, or the one found: BOM, UTF-8, UTF-16 without BOM, else one byte a character."""
    with reading(shown):
        if setting != "auto":
            return _given(path, shown, setting)
        with open_bytes(path) as file:
            head = file.read(4096)
        for mark, (name, said) in MARKS.items():
            if head.startswith(mark):
                return Encoding(name, said)
        wide = _wide_without_mark(head)
        return Encoding(wide, f"{wide} without BOM") if wide else _narrow(path, shown)


def _given(path: Path, shown: str, setting: str) -> Encoding:
    try:
        name = codecs.lookup(setting).name
    except LookupError:
        raise DataError(
            Fault(
                "data.encoding",
                f"{setting!r} is not known",
                "such as utf-8, utf-16, latin-1, gb18030",
                "data.encoding=auto",
            )
        ) from None
    with open_bytes(path) as file:
        marked = file.read(3) == codecs.BOM_UTF8
    return Encoding("utf-8-sig" if name == "utf-8" and marked else name, setting)


def _wide_without_mark(head: bytes) -> str | None:
    """UTF-16 of mostly Latin text has a zero in every second byte."""
    half = len(head) // 2
    if half < 2:
        return None
    if head[1::2].count(0) > 0.4 * half:
        return "utf-16-le"
    return "utf-16-be" if head[0::2].count(0) > 0.4 * half else None


def _narrow(path: Path, shown: str) -> Encoding:
    decoder, feeds, returns = codecs.getincrementaldecoder("utf-8")(), 0, 0
    try:
        with open_bytes(path) as file:
            while chunk := file.read(CHUNK_BYTES):
                feeds, returns = feeds + chunk.count(b"\n"), returns + chunk.count(b"\r")
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        return Encoding("utf-8", "utf-8", "" if returns and not feeds else "\n")
    except UnicodeDecodeError:
        return _not_utf8(path, shown)


def _not_utf8(path: Path, shown: str) -> Encoding:
    """Decides between UTF-8 with a few broken lines and an encoding of one byte a character."""
    good, broken, seen = 0, 0, bytearray()
    with open_bytes(path) as file:
        for line in file:
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
                good += 1
            except UnicodeDecodeError:
                broken += 1
                if len(seen) < CHUNK_BYTES:
                    seen += line
    if good >= broken:
        return Encoding("utf-8", f"utf-8, broken in {broken} line(s)")
    # Western letters stand alone among ASCII ones; Chinese or Cyrillic bytes come in runs and would turn to rubbish.
    runs = re.findall(rb"[\x80-\xff]+", bytes(seen))
    if sum(len(run) == 1 for run in runs) < 0.5 * len(runs):
        raise DataError(
            Fault(
                shown,
                "is neither UTF-8 nor a Western text in Latin-1",
                "name its encoding, such as gb18030 (Chinese), shift_jis, euc-kr, cp1251 (Cyrillic)",
                "data.encoding=gb18030",
            )
        )
    # cp1252 is Latin-1 with quotes and dashes in place of control characters; five bytes mean nothing in it
    name = "latin-1" if re.search(rb"[\x81\x8d\x8f\x90\x9d]", bytes(seen)) else "cp1252"
    return Encoding(name, f"{name} (it is not UTF-8)")

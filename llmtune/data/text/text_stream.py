"""Texts of any size as a stream: documents out of files, in pieces that fit into memory, each with its place.

A document is a line, what stands between blank lines, or a whole file; in a table it is a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llmtune.config.settings import DataSettings
from llmtune.core.errors import Stopped
from llmtune.data.columns import Column
from llmtune.data.files.sources import Source
from llmtune.data.files.tables import Table
from llmtune.data.files.text_encoding import SURROGATE, find_encoding, open_text, reading
from llmtune.data.forms.values import BadValue
from llmtune.data.roles import TEXT
from llmtune.data.split_build import SplitRecord

DOCUMENTS = ("line", "blank_line", "file")
PIECE_CHARS = 100_000
"""of a long document that are tokenised together"""
STOP_CHECK_PIECES = 500


class Piece(NamedTuple):
    """Some text of a document."""

    text: str
    file: int
    """number of the file, in the order of the stream"""
    line: int
    """where it begins, from 1"""
    first: bool
    """does the document begin with it?"""


@dataclass
class TextStream:
    """The documents of one split, read anew each time they are asked for; in memory is one piece.

    Rows that hold no usable text are passed over and counted in `record`.
    """

    sources: Sequence[Source]
    tables: Sequence[tuple[Table, dict[str, Column]]]
    """of each source: what was found when it was opened"""
    settings: DataSettings
    documents: str
    should_stop: Callable[[], bool] = lambda: False

    def pieces(self, record: SplitRecord | None = None) -> Iterator[Piece]:
        """Raises Stopped; DataError where a file can't be read."""
        record, seen = record or SplitRecord(), 0
        for number, (source, opened) in enumerate(zip(self.sources, self.tables)):
            plain = source.format == "lines" and self.documents != "line"
            read = self._plain(source, number, record) if plain else self._rows(opened, number, record)
            for piece in read:
                seen += 1
                if seen % STOP_CHECK_PIECES == 0 and self.should_stop():
                    raise Stopped("stopped while reading data")
                if piece.first and self.settings.limit is not None and record.read > self.settings.limit:
                    record.read -= 1
                    return
                yield piece

    def texts(self, most_chars: int) -> Iterator[str]:
        """The first pieces' texts, until they are `most_chars` characters."""
        chars = 0
        for piece in self.pieces():
            if chars >= most_chars:
                return
            chars += len(piece.text)
            yield piece.text

    def _rows(self, opened: tuple[Table, dict[str, Column]], number: int, record: SplitRecord) -> Iterator[Piece]:
        table, chosen = opened
        get = chosen["text"].get
        for shown, line, row, reason in table.rows():
            record.read += 1
            try:
                if reason is not None:
                    raise BadValue(reason)
                text = TEXT.convert(get(row))
            except BadValue as bad:
                record.drop(str(bad), f"{shown}:{line}")
                continue
            assert text is not None  # a text is never sparse
            for at in range(0, len(text), PIECE_CHARS):
                yield Piece(text[at : at + PIECE_CHARS], number, line, at == 0)

    def _plain(self, source: Source, number: int, record: SplitRecord) -> Iterator[Piece]:
        """Lines with their line breaks, gathered until a blank line or the file's end, or until they are many."""
        encoding = find_encoding(source.path, source.shown, self.settings.encoding)
        held: list[str] = []
        chars, start, inside = 0, 1, False
        with reading(source.shown, encoding.name), open_text(source.path, encoding) as file:
            line = 1
            while part := file.readline(PIECE_CHARS):
                ends = self.documents == "blank_line" and not part.strip() and part.endswith("\n")
                if ends or chars + len(part) > PIECE_CHARS:
                    yield from self._piece(held, Place(number, start, inside), source.shown, record)
                    inside, held, chars, start = not ends and (inside or bool(held)), [], 0, line + ends
                if not ends:
                    held.append(part)
                    chars += len(part)
                line += part.endswith("\n")
        yield from self._piece(held, Place(number, start, inside), source.shown, record)

    def _piece(self, held: list[str], place: Place, shown: str, record: SplitRecord) -> Iterator[Piece]:
        text = "".join(held)
        if self.documents == "blank_line":
            text = text.removesuffix("\n")
        if not place.inside:
            if not text.strip():
                return
            record.read += 1
        if SURROGATE.search(text) or "\0" in text:
            why = "the text holds a NUL character" if "\0" in text else "the text can't be decoded"
            record.drop(why, f"{shown}:{place.line}")
        else:
            yield Piece(text, place.file, place.line, not place.inside)


class Place(NamedTuple):
    file: int
    line: int
    inside: bool
    """of a document that began before?"""

"""Two text files that belong together line by line: a source and what it is to become, as OPUS and Moses have them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterator
from typing import NoReturn

from llmtune.config.settings import DataSettings
from llmtune.core.errors import DataError, Fault
from llmtune.data.files.sources import Source
from llmtune.data.files.tables import Line, Table
from llmtune.data.files.text_encoding import Encoding, find_encoding, open_text, reading

NAMES = ["source", "target"]


def looks_like(lines: list[str]) -> bool:
    """One file alone never tells that another one belongs to it."""
    return False


def read_table(source: Source, settings: DataSettings) -> Table:
    """Rows of source and target, each a list of one text, so that nothing in a line is taken for JSON.

    Only a line feed ends a line. A line that is empty on either side comes with what is wrong, under the name of the
    file that it is empty in.

    Raises:
        DataError: while rows are read, where one file has more lines than the other.
    """
    assert source.beside is not None  # data.files.sources pairs the files
    sides = (source, source.beside)
    encodings = [find_encoding(side.path, side.shown, settings.encoding) for side in sides]

    def rows() -> Iterator[Line]:
        with contextlib.ExitStack() as opened:
            streams = [opened.enter_context(contextlib.closing(_lines(*pair))) for pair in zip(sides, encodings)]
            for number, texts in enumerate(itertools.zip_longest(*streams), 1):
                if None in texts:
                    _refuse_uneven(sides, texts, number, streams)
                empty = next((side for side, text in zip(sides, texts) if not text or text.isspace()), None)
                if empty is not None:
                    yield empty.shown, number, None, "empty line"
                else:
                    yield source.shown, number, [[text] for text in texts], None

    found = {"encoding": ", ".join(dict.fromkeys(encoding.said for encoding in encodings)), "target": sides[1].shown}
    return Table(source.shown, list(NAMES), len(NAMES), rows, found=found, fixed=True)


def _lines(side: Source, encoding: Encoding) -> Generator[str, None, None]:
    with reading(side.shown, encoding.name), open_text(side.path, encoding) as file:
        for line in file:
            yield line.rstrip("\r\n")


def _refuse_uneven(
    sides: tuple[Source, Source], texts: tuple[str | None, ...], number: int, streams: list[Generator[str, None, None]]
) -> NoReturn:
    """Raises DataError with the lines of both files; `number`: of the first line that one of them has not."""
    counts = [number - 1 + (text is not None) + sum(1 for _ in stream) for text, stream in zip(texts, streams)]
    said = " and ".join(f"{side.shown} {count:,} lines" for side, count in zip(sides, counts))
    raise DataError(
        Fault(sides[0].shown, f"the two sides differ: {said}", "line n of one belongs to line n of the other",
              "two files of the same number of lines")
    )  # fmt: skip

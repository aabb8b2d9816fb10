"""Token ids of text of any size in one flat file, written once, memory-mapped; and where each piece of text begins.

Files of a folder: `tokens.bin` (uint16, or uint32 for a vocabulary of more than 65,536 words); of each piece of text
`starts.bin` (its first token), `bytes.bin` (bytes of UTF-8 before it), `lines.bin`, `files.bin`, `firsts.bin` (1: a
document begins with it); `facts.json`. Behind each document stands the token that ends a text.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from llmtune.core.errors import Stopped
from llmtune.data.text.text_stream import Piece

BATCH_PIECES, BATCH_CHARS = 1000, 250_000
"""of text that are tokenised together: tokenizers need a hundred times a text's size"""
NARROW_WORDS = 2**16
COLUMNS = {"starts": "<i8", "bytes": "<i8", "lines": "<i8", "files": "<i4", "firsts": "<u1"}
KEPT_BYTES = 1 << 26
"""of tokens that were read: then their pages are given back, so that a file's size is not seen in a process's"""
AROUND_BYTES = 1 << 16
"""that a kernel maps besides, around what is read"""
TOLD_EVERY_S = 10.0

Tokenize = Callable[["list[str]"], "list[list[int]]"]


class Ending(NamedTuple):
    """What the writer has to know of a tokenizer."""

    end_id: int | None
    """stands behind each document; None: nothing does"""
    num_words: int
    """size of the vocabulary"""
    unknown_id: int | None


def write_tokens(
    folder: Path, pieces: Iterable[Piece], tokenize: Tokenize, ending: Ending, *,
    should_stop: Callable[[], bool] = lambda: False, log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Write the files of a folder from a stream; the content of `facts.json`. Memory does not grow with the text.

    Raises:
        Stopped: `should_stop()` turned true.
    """
    kind = np.dtype("<u2" if ending.num_words <= NARROW_WORDS else "<u4")
    facts: dict[str, Any] = {"kind": kind.str, "tokens": 0, "documents": 0, "bytes": 0, "unknown": 0, "highest": 0}
    told = time.monotonic()
    with contextlib.ExitStack() as stack:
        out = {name: stack.enter_context(open(folder / f"{name}.bin", "wb")) for name in ("tokens", *COLUMNS)}
        for batch in _batches(pieces):
            if should_stop():
                raise Stopped("stopped while writing the token file")
            _write(batch, tokenize([piece.text for piece in batch]), ending, out, facts)
            if time.monotonic() - told > TOLD_EVERY_S:
                told = time.monotonic()
                log(f"token file: {facts['tokens']:,} tokens of {facts['bytes'] / 1e6:,.1f} MB of text so far")
        if facts["documents"] and ending.end_id is not None:
            _end(out["tokens"], ending, facts)
        _columns(out, [[facts["tokens"], facts["bytes"], 0, 0, 1]])  # where the next one would begin
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    return facts


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    chars = 0
    for piece in pieces:
        batch.append(piece)
        chars += len(piece.text)
        if len(batch) >= BATCH_PIECES or chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _write(
    batch: list[Piece], ids: list[list[int]], ending: Ending, out: Mapping[str, BinaryIO], facts: dict[str, Any]
) -> None:
    rows = []
    for piece, own in zip(batch, ids, strict=True):
        if piece.first and facts["documents"] and ending.end_id is not None:
            _end(out["tokens"], ending, facts)
        rows.append([facts["tokens"], facts["bytes"], piece.line, piece.file, int(piece.first)])
        tokens = np.array(own, dtype=facts["kind"])
        out["tokens"].write(tokens.tobytes())
        facts["tokens"] += len(own)
        facts["documents"] += piece.first
        facts["bytes"] += len(piece.text.encode())
        facts["highest"] = max(facts["highest"], int(tokens.max(initial=0)))
        if ending.unknown_id is not None:
            facts["unknown"] += int(np.count_nonzero(tokens == ending.unknown_id))
    _columns(out, rows)


def _end(file: BinaryIO, ending: Ending, facts: dict[str, Any]) -> None:
    assert ending.end_id is not None
    file.write(np.array([ending.end_id], dtype=facts["kind"]).tobytes())
    facts["tokens"] += 1
    facts["highest"] = max(facts["highest"], ending.end_id)


def _columns(out: Mapping[str, BinaryIO], rows: list[list[int]]) -> None:
    for values, (name, kind) in zip(zip(*rows), COLUMNS.items()):
        out[name].write(np.array(values, dtype=kind).tobytes())


class TokenFile:
    """A folder of `write_tokens`, opened: nothing is read before it is asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        self._map, self._tokens = _mapped(folder / "tokens.bin", self.facts["kind"])
        self._pieces = {name: _mapped(folder / f"{name}.bin", kind)[1] for name, kind in COLUMNS.items()}
        self._read_bytes = 0

    def __len__(self) -> int:
        return int(self.facts["tokens"])

    def ids(self, begin: int, end: int) -> np.ndarray:
        """Token ids from `begin` to `end`, a copy."""
        found = self._tokens[begin:end].copy()
        self._read_bytes += found.nbytes + AROUND_BYTES
        if self._read_bytes > KEPT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._read_bytes = 0
        return found

    def pieces_at(self, tokens_N: np.ndarray) -> np.ndarray:
        """(N,) number of the piece in which each token stands."""
        return np.maximum(np.searchsorted(self._pieces["starts"][:-1], tokens_N, side="right") - 1, 0)

    def places_at(self, tokens_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) number of the file, and the line at which the piece begins in which each token stands."""
        pieces_N = self.pieces_at(tokens_N)
        return self._pieces["files"][pieces_N], self._pieces["lines"][pieces_N]

    def bytes_before(self, tokens_N: np.ndarray) -> np.ndarray:
        """(N,) bytes of text before each token; inside a piece spread evenly over its tokens."""
        pieces_N, starts, sizes = self.pieces_at(tokens_N), self._pieces["starts"], self._pieces["bytes"]
        widths_N = np.maximum(1, starts[pieces_N + 1] - starts[pieces_N])
        shares_N = np.clip((tokens_N - starts[pieces_N]) / widths_N, 0, 1)
        return sizes[pieces_N] + shares_N * (sizes[pieces_N + 1] - sizes[pieces_N])

    def documents_in(self, begin: int, end: int) -> np.ndarray:
        """Token numbers in (begin, end) at which a document begins."""
        first, last = np.searchsorted(self._pieces["starts"][:-1], [begin + 1, end])
        starts = self._pieces["starts"][first:last]
        return starts[self._pieces["firsts"][first:last] == 1]


def _mapped(path: Path, kind: str) -> tuple[mmap.mmap, np.ndarray]:
    with open(path, "rb") as file:
        held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return held, np.frombuffer(held, dtype=kind)

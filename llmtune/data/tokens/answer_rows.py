"""Rows of tasks that teach a model what to write: which tokens it reads, and at which the next one is to be learnt.

What is wanted is told by position and never by a token's id: where padding and stop are one token, the stop is learnt
all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmtune.core.errors import DataError, Fault

SHOWN_ROWS = 20
Piece = tuple[Sequence[int], bool]
"""tokens, and are they to be written by the model?"""


class BadRows(DataError):
    """Rows of which an encoder can make no tokens. `reasons`: by number among the rows of the call."""

    def __init__(self, reasons: Mapping[int, str]):
        self.reasons = dict(reasons)
        super().__init__(*self.faults_at({number: f"row {number + 1} of those read together" for number in reasons}))

    def at(self, places: Sequence[str]) -> DataError:
        """The same, with `file:line` of all rows of the call."""
        return DataError(*self.faults_at(dict(enumerate(places))))

    def faults_at(self, places: Mapping[int, str]) -> list[Fault]:
        shown = [Fault(places[number], reason) for number, reason in list(self.reasons.items())[:SHOWN_ROWS]]
        more = len(self.reasons) - len(shown)
        return [*shown, Fault("rows", f"{more} more of these can't be used either")] if more else shown


def decoder_row(pieces: Sequence[Piece]) -> dict[str, list[int]]:
    """A row of a decoder: `input_ids`, `wanted` (1 where the token after is to be written), `target` (those tokens),
    `asked` ([tokens before the last piece that is to be written]: what an answer is generated from).

    The first token of a row can't be written, since nothing stands before it.
    """
    ids = [token for tokens, _ in pieces for token in tokens]
    written = [is_written for tokens, is_written in pieces for _ in tokens]
    wanted = [int(after) for after in written[1:]] + [0] * bool(ids)
    target = [ids[at + 1] for at, one in enumerate(wanted) if one]
    return {"input_ids": ids, "wanted": wanted, "target": target, "asked": [_before_last(pieces)]}


def _before_last(pieces: Sequence[Piece]) -> int:
    last = max((number for number, (tokens, is_written) in enumerate(pieces) if is_written and tokens), default=None)
    return sum(len(tokens) for tokens, _ in pieces[:last])


def prompt_row(ids: Sequence[int]) -> dict[str, list[int]]:
    """A row of a decoder that nothing is known of but what the answer is asked by."""
    return {"input_ids": list(ids), "asked": [len(ids)]}


def sequence_row(source: Sequence[int], target: Sequence[int] | None, start: Sequence[int]) -> dict[str, list[int]]:
    """A row of an encoder-decoder: it reads `source`; its decoder reads `start` and then `target` but its last token.

    Args:
        target: what is to be written, the stop token included; None: it is not known.
        start: tokens that the decoder begins with, none of which is to be written.
    """
    if target is None:
        return {"input_ids": list(source)}
    decoded = [*start, *target[:-1]]
    wanted = [0] * (len(decoded) - len(target)) + [1] * len(target)
    return {"input_ids": list(source), "decoder_input_ids": decoded, "wanted": wanted, "target": list(target)}


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as an encoder hands them on: by name, a list a row. All rows have the same names."""
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}

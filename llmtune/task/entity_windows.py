"""Which tokens of a long row are kept so that both marked entities stay in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtune.core.errors import DataError, Fault
from llmtune.data.columns import short
from llmtune.data.forms.entity_pairs import unmarked

SHOWN_CHARS = 80
Frame = tuple[int, int]
"""how many tokens a tokenizer puts before a row, and behind it"""


def special_frame(tokenizer: Any, marks: Sequence[int]) -> Frame:
    """How many tokens the tokenizer adds before and behind a text (`[CLS]`, `[SEP]`, ...)."""
    first, last = (tokenizer.convert_ids_to_tokens(mark) for mark in (marks[0], marks[-1]))
    whole, bare = (
        tokenizer(f"{first}a{last}", add_special_tokens=added)["input_ids"] for added in (True, False)
    )  # fmt: skip
    before = whole.index(marks[0]) - bare.index(marks[0])
    return before, len(whole) - len(bare) - before


def kept_around(ids: Sequence[int], marks: Sequence[int], frame: Frame, max_tokens: int, text: str) -> list[int]:
    """Places of the tokens that are kept of a row, in their order, `max_tokens` of them.

    A window with both entities and as much on the left of them as on the right; where they are too far from each
    other for one window, a window around each.

    Args:
        marks: ids of the four marks, each of which stands once in `ids`.
        text: the row with its marks, by which it is found where it must be refused.
    Raises:
        DataError: the entities alone are longer.
    """
    before, behind = frame
    places = [list(ids).index(mark) for mark in marks]
    spans = sorted([(places[0], places[1] + 1), (places[2], places[3] + 1)])
    first, last = before, len(ids) - behind
    room = max_tokens - before - behind
    (start, one_stop), (two_start, stop) = spans
    need = one_stop - start + stop - two_start
    if need > room:
        plain, entities = unmarked(text)
        named = " and ".join(short(entity["text"]) for entity in entities.values())
        given = f"{max_tokens}, but the two entities of the row {short(plain, SHOWN_CHARS)} have {need} tokens: {named}"
        fix = f"data.max_tokens={need + before + behind}, or data.on_overlength=drop leaves such rows out"
        raise DataError(Fault("data.max_tokens", given, "room for both", fix))
    if stop - start <= room:
        windows = [_around(start, stop, first, last, room)]
    else:
        half = (room - need) // 2
        one = _around(start, one_stop, first, two_start, one_stop - start + half)
        two = _around(two_start, stop, one[1], last, room - (one[1] - one[0]))
        windows = [one, two]
    inner = [place for begin, end in windows for place in range(begin, end)]
    return [*range(before), *inner, *range(len(ids) - behind, len(ids))]


def _around(start: int, stop: int, first: int, last: int, room: int) -> tuple[int, int]:
    """A window of `room` places within [first, last) around [start, stop), which is not longer than that."""
    spare = room - (stop - start)
    begin = max(first, start - spare // 2)
    end = min(last, begin + room)
    return max(first, min(begin, end - room)), end

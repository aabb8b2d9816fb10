"""The encoder for tagging: words to token ids in windows, a sign at each word's first piece, targets beside.

What a row's target is, flat over all of its windows: for tags one id a token, -100 where none is scored. For spans
the number of tokens, the sign of each, then three numbers an entity: its first word, how many words, its type; minus
how many where the window that its first word is read in does not hold it whole.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmtune.data.cache import code_version
from llmtune.data.tagging import pieces as tagging_pieces
from llmtune.data.tagging import rows as tagging_rows
from llmtune.data.tagging import schemes as tag_schemes
from llmtune.data.tagging import windows as tagging_windows
from llmtune.data.tagging import words as tagging_words
from llmtune.data.tagging.learnt import Learnt
from llmtune.data.tagging.pieces import BLANK, START, WORD, PieceTable
from llmtune.data.tagging.rows import Words, gold_of, words_of
from llmtune.data.tagging.windows import cut_windows, owners

NOT_SCORED = -100
NO_FIRST, FIRST, READ = 0, 1, 2
"""signs of tokens: none; first piece of a word that is read in another window; first piece that is read"""


@dataclass(frozen=True)
class Overlap:
    """By how much windows overlap."""

    tokens: int
    words: int


class TaggingEncoder:
    """`encode(columns, max_tokens)`: several sequences a row where it is longer than `max_tokens`."""

    makes_windows = True

    def __init__(self, tokenizer: Any, learnt: Learnt, overlap: Overlap):
        self.pieces = PieceTable(tokenizer)
        self.learnt, self.reading, self.overlap = learnt, learnt.reading, overlap
        self.ids = learnt.labels.ids

    def __call__(self, columns: Mapping[str, Sequence[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
        """`input_ids`, `words` (signs), `cuts` (lengths of a row's sequences), and where there is gold `target`."""
        rows = [words_of(columns, row, self.reading) for row in range(len(next(iter(columns.values()))))]
        spelled = [_spelled(words) for words in rows]
        found = iter(self.pieces.look_up([word for words in spelled for word in words]))
        encoded: dict[str, list[Any]] = {"input_ids": [], "words": [], "cuts": []}
        gold = columns.get("tags" if self.reading.by == "tokens" else "spans") is not None
        targets = []
        for row, words in enumerate(rows):
            ids, signs, cuts = self._sequences([next(found) for _ in words.offsets], max_tokens)
            for name, values in zip(encoded, (ids, signs, cuts)):
                encoded[name].append(values)
            if gold:
                targets.append(self._target(gold_of(columns, row, words, self.reading), signs, cuts))
        if self.pieces.has_types:
            encoded["token_type_ids"] = [[0] * len(ids) for ids in encoded["input_ids"]]
        return {**encoded, **({"target": targets} if gold else {})}

    def _sequences(
        self, words: list[tuple[list[int], int]], max_tokens: int | None
    ) -> tuple[list[int], list[int], list[int]]:
        before, after = self.pieces.before, self.pieces.after
        room = None if max_tokens is None else max(1, max_tokens - len(before) - len(after))
        if room is not None and any(len(pieces) > room for pieces, _ in words):
            # of a word that no window can hold its beginning stands for it
            words = [(pieces[min(at, max(0, len(pieces) - room)) :][:room], 0) for pieces, at in words]
        windows = cut_windows(
            [len(pieces) for pieces, _ in words], room, overlap=self.overlap.tokens, together=self.overlap.words
        )
        ids: list[int] = []
        signs: list[int] = []
        cuts: list[int] = []
        for (first, stop), (low, high) in zip(windows, owners(windows)):
            begin = len(ids)
            ids += before
            signs += [NO_FIRST] * len(before)
            for number in range(first, stop):
                pieces, at = words[number]
                ids += pieces
                sign = READ if low <= number < high else FIRST
                signs += [NO_FIRST] * at + [sign] + [NO_FIRST] * (len(pieces) - at - 1)
            ids += after
            signs += [NO_FIRST] * len(after)
            cuts.append(len(ids) - begin)
        return ids, signs, cuts

    def _target(self, gold: Any, signs: list[int], cuts: list[int]) -> list[int]:
        if self.learnt.spans:
            stops = _last_words(signs, cuts)
            sizes = (end - start if end <= stops[start] else start - end for start, end, _ in gold)
            flat = [number for (start, _, kind), size in zip(gold, sizes) for number in (start, size, self.ids[kind])]
            return [len(signs), *signs, *flat]
        tags = gold if self.learnt.plain else self.learnt.write(gold, signs.count(READ))
        ids = iter(self.ids[tag] for tag in tags)
        return [next(ids) if sign == READ else NOT_SCORED for sign in signs]


def code() -> str:
    """What a change of the code changes, by which rows become words, pieces and targets."""
    return code_version(
        sys.modules[__name__], tag_schemes, tagging_pieces, tagging_rows, tagging_windows, tagging_words
    )  # fmt: skip


def _last_words(signs: list[int], cuts: list[int]) -> list[int]:
    """Of each word the one after the last in the window that it is read in."""
    stops: list[int] = []
    at = 0
    for length in cuts:
        here = [sign for sign in signs[at : at + length] if sign != NO_FIRST]
        first = len(stops) - next((place for place, sign in enumerate(here) if sign == READ), 0)
        stops += [first + len(here)] * here.count(READ)
        at += length
    return stops


def _spelled(words: Words) -> list[tuple[str, str]]:
    """Of each word what stands before it, and how it is written."""
    ends = [0, *(end for _, end in words.offsets)]
    return [
        (START if not number else BLANK if end < start else WORD, words.text[start:stop])
        for number, (end, (start, stop)) in enumerate(zip(ends, words.offsets))
    ]

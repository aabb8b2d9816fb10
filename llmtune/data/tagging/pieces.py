"""Words to pieces, one word at a time, so that every piece belongs to one word whatever the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MOST_KEPT = 200_000
"""words whose pieces are remembered"""
BLANKS = "▁Ġ "
"""what tokenizers write for a blank"""
START, BLANK, WORD = "start", "blank", "word"
"""what stands before a word"""


class PieceTable:
    """The pieces of words as they stand in a text, looked up once for each spelling.

    A word that follows a blank is tokenised with it (byte-level and Unigram tokenizers write it into the piece), one
    that touches the word before without, and a text's first word as the beginning of a text. What stands around a
    sequence (`before`, `after`) is the tokenizer's own.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.before, self.after = _frame(tokenizer)
        self.has_types = "token_type_ids" in tokenizer("a")
        self._kept: dict[tuple[str, str], tuple[list[int], int]] = {}

    def look_up(self, words: Sequence[tuple[str, str]]) -> list[tuple[list[int], int]]:
        """For each (what stands before it: START, BLANK or WORD; word) its pieces, one at least, and which of them
        stands for it."""
        if len(self._kept) > MOST_KEPT:
            self._kept.clear()
        new = list(dict.fromkeys(word for word in words if word not in self._kept))
        if new:
            texts = [f" {word}" if place == BLANK else word for place, word in new]
            encoded = self.tokenizer(
                texts, add_special_tokens=False, padding=False, truncation=False, verbose=False,
                return_attention_mask=False, return_token_type_ids=False,
            )["input_ids"]  # fmt: skip
            for word, ids in zip(new, encoded):
                self._kept[word] = self._settled(word[0], list(ids))
        return [self._kept[word] for word in words]

    def _settled(self, place: str, ids: list[int]) -> tuple[list[int], int]:
        if not ids:  # signs that the tokenizer drops; no word goes without a piece
            return [self._stand_in()], 0
        bare = 0
        while bare < len(ids) - 1 and not self.tokenizer.convert_ids_to_tokens(ids[bare]).strip(BLANKS):
            bare += 1
        return (ids[bare:], 0) if place == WORD else (ids, bare)

    def _stand_in(self) -> int:
        known = (self.tokenizer.unk_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)
        return next((one for one in known if one is not None), 0)


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for at in range(len(whole) - len(bare) + 1):
        if whole[at : at + len(bare)] == bare:
            return whole[:at], whole[at + len(bare) :]
    return [], []

"""Texts cut in two at a sentence's end, and pieces put together to pairs, as an encoder reads them.

Legend: B rows, T tokens, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

ENDS = frozenset(".!?;\u3002\uff01\uff1f\uff1b")
"""what a sentence ends with"""
FEWEST = 4
"""tokens of a text that can be cut"""


class Halves:
    """Cuts rows in two and puts pieces together again, with the tokenizer's special tokens around and between."""

    def __init__(self, tokenizer: Any, max_tokens: int):
        self.max_tokens, self.pad_id = max_tokens, tokenizer.pad_token_id
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self.ends_V = np.array([token.lstrip("#\u2581\u0120")[-1:] in ENDS for token in tokens])
        self.special_V = np.zeros(len(tokens), dtype=bool)
        self.special_V[tokenizer.all_special_ids] = True
        encoded = tokenizer("a", "a")
        sequence = encoded.sequence_ids(0)
        first, second = sequence.index(0), sequence.index(1)
        last = len(sequence) - 1 - sequence[::-1].index(0)
        end = len(sequence) - 1 - sequence[::-1].index(1)
        ids = encoded["input_ids"]
        self.around = (ids[:first], ids[last + 1 : second], ids[end + 1 :])
        types = encoded.get("token_type_ids")
        self.second_type = types[second] if types is not None else None

    def cut(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The text's tokens before and after the sentence's end that is nearest to its middle; None: too short."""
        text = ids[~self.special_V[ids]]
        if len(text) < FEWEST:
            return None
        after = np.flatnonzero(self.ends_V[text[:-1]]) + 1
        middle = len(text) // 2
        at = int(after[np.abs(after - middle).argmin()]) if len(after) else middle
        return text[:at], text[at:]

    def view(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Model inputs of the pairs, padded on the right; what is too long loses its outer ends."""
        before, between, behind = self.around
        room = self.max_tokens - len(before) - len(between) - len(behind)
        rows, types = [], []
        for first, second in pairs:
            half = max(room // 2, room - len(second))
            first = first[-min(half, room - 1) :]
            second = second[: room - len(first)]
            rows.append([*before, *first, *between, *second, *behind])
            # the separator behind the first half is of the first, as BERT has it
            types.append(len(before) + len(first) + len(between))
        width = max(map(len, rows))
        ids_BT = torch.tensor([[*row, *[self.pad_id] * (width - len(row))] for row in rows])
        real_BT = torch.arange(width) < torch.tensor([[len(row)] for row in rows])
        view = {"input_ids": ids_BT}
        if self.second_type is not None:
            in_second_BT = (torch.arange(width) >= torch.tensor(types)[:, None]) & real_BT
            view["token_type_ids"] = in_second_BT.long() * self.second_type
        return view if bool(real_BT.all()) else {**view, "attention_mask": real_BT.long()}

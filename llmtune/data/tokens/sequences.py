"""Rows of several sequences as encoders hand them on: token ids end to end, and where each sequence ends."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

AT_ONCE = 1000
"""texts that go through the tokenizer together: what it says of each takes some kilobytes"""


def encode_sequences(
    tokenizer: Any, rows: Sequence[Sequence[str]], partners: Sequence[Sequence[str]] | None, max_tokens: int | None
) -> dict[str, list[Any]]:
    """`input_ids` and, where the tokenizer makes them, `token_type_ids`, end to end; `cuts`, the sequences' lengths.

    Args:
        rows: for each row the text of every sequence.
        partners: what is read together with each of these texts; None: they stand alone.
        max_tokens: of a sequence; of a pair the longer text is cut first.
    """
    texts = list(chain.from_iterable(rows))
    others = None if partners is None else list(chain.from_iterable(partners))
    flat: dict[str, list[list[int]]] = {}
    for at in range(0, len(texts), AT_ONCE):
        encoded = tokenizer(
            texts[at : at + AT_ONCE], None if others is None else others[at : at + AT_ONCE],
            truncation="longest_first" if max_tokens else False, max_length=max_tokens, padding=False, verbose=False,
            return_attention_mask=False,
        )  # fmt: skip
        for key in ("input_ids", "token_type_ids"):
            if key in encoded:
                flat.setdefault(key, []).extend(encoded[key])
    made: dict[str, list[Any]] = {key: [] for key in flat}
    cuts, at = [], 0
    for row in rows:
        for key, sequences in flat.items():
            made[key].append(list(chain.from_iterable(sequences[at : at + len(row)])))
        cuts.append([len(ids) for ids in flat["input_ids"][at : at + len(row)]])
        at += len(row)
    return {**made, "cuts": cuts}

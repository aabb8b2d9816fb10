"""How long encoded rows are: their longest sequence, which a model must take, and all of their tokens."""

from __future__ import annotations

from typing import Any


def longest_sequences(tokens: dict[str, list[Any]]) -> list[int]:
    """Tokens of each row's longest sequence, be it one that the decoder reads."""
    if "cuts" in tokens:
        return [max(row, default=0) for row in tokens["cuts"]]
    decoded = tokens.get("decoder_input_ids") or [()] * len(tokens["input_ids"])
    return [max(len(row), len(other)) for row, other in zip(tokens["input_ids"], decoded)]


def total_tokens(tokens: dict[str, list[Any]]) -> list[int]:
    """Tokens of each row, those that the decoder reads included."""
    decoded = tokens.get("decoder_input_ids") or [()] * len(tokens["input_ids"])
    return [len(row) + len(other) for row, other in zip(tokens["input_ids"], decoded)]

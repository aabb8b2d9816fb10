"""Tokens that a task adds to a tokenizer, and which of them a model with weights has never seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NOTE = "_llmtune_new_ids"
ON_NETWORK = "new_token_ids"


def add_tokens(tokenizer: Any, wanted: Sequence[str]) -> Any:
    """The tokenizer, which knows these special tokens; what it knew already stays what it was."""
    known = tokenizer.get_vocab() if wanted else {}
    added = [token for token in wanted if token not in tokenizer.all_special_tokens]
    tokenizer.add_special_tokens({"additional_special_tokens": added}, replace_extra_special_tokens=False)
    setattr(tokenizer, NOTE, tuple(tokenizer.convert_tokens_to_ids(token) for token in added if token not in known))
    return tokenizer


def tell_network(network: Any, tokenizer: Any) -> Any:
    """The network, which knows the ids of `add_tokens` that mean nothing to its weights yet: an adapter trains rows for
    them, though the table of words stays."""
    setattr(network, ON_NETWORK, getattr(tokenizer, NOTE, ()))
    return network


def new_ids(network: Any) -> tuple[int, ...]:
    """Those ids; none where nobody told."""
    return getattr(network, ON_NETWORK, ())

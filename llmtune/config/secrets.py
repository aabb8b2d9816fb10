"""Secrets come from the environment; where config is written down they are hidden."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

HIDDEN = "***"
WORDS = re.compile(r"secret|passw|api_?key|credential|token(?![si])")
VOCABULARY = re.compile(r"(pad|eos|bos|unk|sep|cls|mask)_token|_ids?$")
"""tokens of a tokenizer, which are no secrets"""


def is_secret(key: str) -> bool:
    return bool(WORDS.search(key.lower())) and not VOCABULARY.search(key.lower())


def redacted(content: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which texts under keys such as `token`, `secret`, `password`, `api_key` are hidden."""

    def copy(node: Any, hide: bool) -> Any:
        if isinstance(node, Mapping):
            return {key: copy(value, hide or is_secret(str(key))) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            return [copy(value, hide) for value in node]
        return HIDDEN if hide and isinstance(node, str) else node

    return cast("dict[str, Any]", copy(content, False))


def redacted_line(line: str) -> str:
    """A typed `key=value` with the value hidden if the key names a secret."""
    key, sign, _ = line.partition("=")
    return f"{key}={HIDDEN}" if sign and is_secret(key.rpartition(".")[2]) else line

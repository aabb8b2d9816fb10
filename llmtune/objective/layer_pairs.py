"""Which layer of a student is held against which of its teacher."""

from __future__ import annotations

import re
from typing import Any

LAYER_MAPS = ("uniform", "last")
PAIRS = re.compile(r"\s*\d+\s*:\s*\d+\s*(,\s*\d+\s*:\s*\d+\s*)*")


def num_layers(config: Any) -> int:
    """Of a model's transformers config."""
    return int(config.num_hidden_layers)


def layer_pairs(word: str, student: int, teacher: int) -> list[tuple[int, int]]:
    """(student's layer, teacher's layer), counted from 1; 0 is what the embeddings give.

    uniform: evenly spread, the last with the last; last: the uppermost of both (PKD, arXiv 1908.09355); or pairs as in
    "1:2,2:4".

    Raises:
        ValueError: a pair names a layer that isn't there.
    """
    both = min(student, teacher)
    if word == "uniform":
        return [(-(-i * student // both), -(-i * teacher // both)) for i in range(1, both + 1)]
    if word == "last":
        return [(student - both + i, teacher - both + i) for i in range(1, both + 1)]
    pairs = [(int(own), int(other)) for own, other in (pair.split(":") for pair in word.split(","))]
    for own, other in pairs:
        if own > student or other > teacher:
            raise ValueError(f"{own}:{other}, but the student has {student} layers and the teacher {teacher}")
    return pairs

"""Which layer of a student is held against which of its teacher."""

from __future__ import annotations

import re
from typing import Any

LAYER_MAPS = ("uniform", "last")
PAIRS = re.compile(r"\s*\d+\s*:\s*\d+\s*(,\s*\d+\s*:\s*\d+\s*)*")
Pairs = list[tuple[int, int]]


def num_layers(config: Any) -> tuple[int, ...]:
    """Of each stack of a model, by its transformers config: an encoder-decoder has two."""
    if not getattr(config, "is_encoder_decoder", False):
        return (int(config.num_hidden_layers),)
    names = ("num_decoder_layers", "decoder_layers", "num_hidden_layers")
    decoder = next(found for name in names if (found := getattr(config, name, None)) is not None)
    return int(config.num_hidden_layers), int(decoder)


def stack_pairs(word: str, student: Any, teacher: Any) -> list[Pairs]:
    """`layer_pairs` of each stack of two models, by their transformers configs. Raises ValueError."""
    return [layer_pairs(word, *both) for both in zip(num_layers(student), num_layers(teacher))]


def layer_pairs(word: str, student: int, teacher: int) -> Pairs:
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

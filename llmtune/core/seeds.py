"""Random numbers as a function of where they are used: nothing to save, nothing to restore."""

from __future__ import annotations

import hashlib

import numpy as np


def fold(seed: int, *words: int | str) -> int:
    """A 63-bit seed that depends on all of `words`; equal on every machine and Python version."""
    text = "\x1f".join(str(word) for word in (seed, *words))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *words: int | str) -> np.random.Generator:
    """A numpy generator for one place in the program: `generator(seed, "order", epoch)`."""
    return np.random.Generator(np.random.PCG64(fold(seed, *words)))

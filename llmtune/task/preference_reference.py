"""What the model made of answers before the first step: the reference that DPO, IPO and KTO compare with.

Legend: S sequences.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class Reference:
    """Log-probabilities of sequences by their keys (task.preference_encoding): 12 bytes a sequence.

    They are made anew whenever a run is begun or gone on with, from the weights that it began with; so no checkpoint
    has them. Those of validation and test rows go with the model, to be scored again.
    """

    def __init__(self) -> None:
        self._keys = np.zeros(0, dtype=np.int64)
        self._values = np.zeros(0, dtype=np.float32)
        self._kept = np.zeros(0, dtype=np.int64)
        """keys of those that go with the model"""

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, keys_S2: np.ndarray, values_S: np.ndarray, *, keep: bool) -> None:
        """Remember; `keep`: they go with the model."""
        keys_S = joined(keys_S2)
        self._keys, first = np.unique(np.concatenate([self._keys, keys_S]), return_index=True)
        self._values = np.concatenate([self._values, values_S.astype(np.float32)])[first]
        if keep:
            self._kept = np.union1d(self._kept, keys_S)

    def of(self, keys_S2: np.ndarray) -> np.ndarray:
        """(S,) in fp32; NaN where nothing is known."""
        keys_S = joined(keys_S2)
        if not len(self._keys):
            return np.full(len(keys_S), np.nan, dtype=np.float32)
        places_S = np.searchsorted(self._keys, keys_S).clip(max=len(self._keys) - 1)
        return np.where(self._keys[places_S] == keys_S, self._values[places_S], np.float32(np.nan))

    def to_json(self) -> dict[str, str]:
        values = self._values[np.searchsorted(self._keys, self._kept)]
        return {"keys": _text(self._kept.astype("<i8")), "values": _text(values.astype("<f4"))}

    def restore(self, plain: dict[str, str]) -> None:
        """Undo `to_json`."""
        self._keys = np.frombuffer(base64.b64decode(plain["keys"]), dtype="<i8").astype(np.int64)
        self._values = np.frombuffer(base64.b64decode(plain["values"]), dtype="<f4").astype(np.float32)
        self._kept = self._keys


def joined(keys_S2: np.ndarray) -> np.ndarray:
    """Pairs of 32 bits as one number each."""
    halves_S2 = np.asarray(keys_S2, dtype=np.int64).reshape(-1, 2)
    return (halves_S2[:, 0] << 32) | (halves_S2[:, 1] & 0xFFFFFFFF)


def keys_of(facts: Iterable[Sequence[int]]) -> np.ndarray:
    """The keys of some rows' sequences, end to end: (S, 2)."""
    return np.asarray([number for row in facts for number in row], dtype=np.int64).reshape(-1, 2)


def _text(values: Any) -> str:
    return base64.b64encode(values.tobytes()).decode()

"""Training rows changed on their way into a batch: another change in each epoch, the same at each start.

A change of texts rewrites the row's texts, which are then encoded as the task encodes them; a change of tokens works
on the ids. Nothing is drawn but from the row's seed, a function of (seed, epoch, row).

Legend: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from llmtune.core.seeds import generator
from llmtune.core.types import Batch
from llmtune.data.roles import TEXT, TEXT_PAIR

Encode = Callable[["Mapping[str, list[Any]]", "int | None"], "dict[str, list[Any]]"]


class Change(Protocol):
    """What an option of the group `augmentation` builds; it has one of the two methods."""

    name: str
    share: float
    """of the rows of an epoch that are changed"""

    def text(self, text: str, rng: np.random.Generator) -> str:
        """The text, rewritten."""

    def tokens(self, free: np.ndarray, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Ids of a row (T,), changed; `free` (T,): is it no special token?"""


class RowChanges:
    """Applies changes to batches of one table of rows: those of texts first, each in the order it was chosen in."""

    def __init__(
        self, changes: Sequence[Any], rows: Any, encode: Encode, *, max_tokens: int, pad_id: int,
        special_ids: Sequence[int],
    ):  # fmt: skip
        """`rows`: the encoded data set, with its texts; `encode`: the task's own."""
        self.of_texts = [change for change in changes if hasattr(change, "text")]
        self.of_tokens = [change for change in changes if hasattr(change, "tokens")]
        self.roles = [role for role in (TEXT.name, TEXT_PAIR.name) if role in rows.column_names]
        self.texts = rows.with_format(None).select_columns(self.roles)
        self.encode, self.max_tokens = encode, max_tokens
        self.pads = {"input_ids": pad_id}
        self.special_ids = np.asarray(sorted(special_ids))

    def __call__(self, batch: Batch) -> None:
        """Change the clean view of a batch in place. Lengths may change, up to `max_tokens`."""
        rewritten = self._rewritten(batch)
        view = batch.views["clean"]
        rows = [_row(view, place) for place in range(len(batch.row_ids))]
        if rewritten:
            columns = {role: [texts[role] for texts in rewritten.values()] for role in self.roles}
            encoded = self.encode(columns, self.max_tokens)
            for number, place in enumerate(rewritten):
                rows[place] = {name: np.asarray(encoded[name][number]) for name in rows[place]}
        touched = set(rewritten)
        for place, seed in enumerate(batch.row_seeds):
            for change in self.of_tokens:
                rng = generator(seed, "augmentation", change.name)
                if rng.random() < change.share:
                    ids = rows[place]["input_ids"]
                    rows[place] = {**rows[place], "input_ids": change.tokens(~np.isin(ids, self.special_ids), ids, rng)}
                    touched.add(place)
        if touched:
            self._put(batch, rows)

    def _rewritten(self, batch: Batch) -> dict[int, dict[str, str]]:
        """Place in the batch -> texts by role, of the rows whose texts were changed."""
        found = {}
        for place, (row, seed) in enumerate(zip(batch.row_ids, batch.row_seeds)):
            drawn = [(change, generator(seed, "augmentation", change.name)) for change in self.of_texts]
            chosen = [(change, rng) for change, rng in drawn if rng.random() < change.share]
            if chosen:
                given = self.texts[row]
                texts = dict(given)
                for change, rng in chosen:
                    texts = {role: change.text(text, rng) if text else text for role, text in texts.items()}
                if texts != given:
                    found[place] = texts
        return found

    def _put(self, batch: Batch, rows: list[dict[str, np.ndarray]]) -> None:
        """Make the clean view of `rows`, padded on the right."""
        lengths_B = np.asarray([len(row["input_ids"]) for row in rows])
        real_BT = np.arange(lengths_B.max()) < lengths_B[:, None]
        view = {}
        for name in rows[0]:
            padded_BT = np.full(real_BT.shape, self.pads.get(name, 0), dtype=np.int64)
            padded_BT[real_BT] = np.concatenate([row[name] for row in rows])
            view[name] = torch.from_numpy(padded_BT)
        if not real_BT.all():
            view["attention_mask"] = torch.from_numpy(real_BT.astype(np.int64))
        batch.views["clean"] = view
        batch.kept = None
        if batch.weight:
            batch.real_tokens, batch.padded_tokens = int(lengths_B.sum()), real_BT.size


def _row(view: Mapping[str, torch.Tensor], place: int) -> dict[str, np.ndarray]:
    mask_BT = view.get("attention_mask")
    length = int(mask_BT[place].sum()) if mask_BT is not None else view["input_ids"].shape[1]
    return {name: values[place, :length].numpy() for name, values in view.items() if name != "attention_mask"}

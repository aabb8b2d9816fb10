"""Pairs out of texts, for objectives that ask how two pieces belong together: each text is cut at a sentence's end.

Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from llmtune.core.protocols import Views
from llmtune.core.seeds import generator
from llmtune.core.types import Batch, Loss
from llmtune.data.batches.feed import TokenTable
from llmtune.data.text.halves import Halves

Draw = Callable[[int, np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray, int]]
"""number of the row, its first half, its second half, a generator -> the pair that is shown, its class (0 or 1)"""


TRIES = 8
"""rows that are looked at for one that can be cut"""


class PairLoss(nn.Module):
    """Cross-entropy of a yes-or-no question about the two halves of each text, per text that can be cut."""

    def __init__(
        self, name: str, feed: str, weight: Callable[[int], float], halves: Halves, width: int, draw: Draw,
        shared: nn.Module | None = None,
    ):  # fmt: skip
        """`shared`: the head, where the task model has one; else it is our own."""
        super().__init__()
        self.name, self.feed, self.weight = name, feed, weight
        self.halves, self.draw = halves, draw
        self._shared = () if shared is None else (shared,)
        if shared is None:
            self.head = nn.Linear(width, 2)

    def prepare(self, batch: Batch) -> None:
        """Adds the view of pairs and their classes_B; -100 where a text can't be cut and is shown as it is."""
        clean = batch.views["clean"]
        mask_BT = clean.get("attention_mask")
        pairs, classes = [], []
        for row, (number, seed) in enumerate(zip(batch.row_ids, batch.row_seeds)):
            ids = clean["input_ids"][row].numpy()
            ids = ids if mask_BT is None else ids[mask_BT[row].numpy() != 0]
            cut = self.halves.cut(ids)
            if cut is None:
                pairs.append((ids, ids[:1]))
                classes.append(-100)
            else:
                first, second, answer = self.draw(number, *cut, generator(seed, self.name))
                pairs.append((first, second))
                classes.append(answer)
        batch.views[self.name] = self.halves.view(pairs)
        batch.targets[self.name] = torch.tensor(classes)

    def count(self, batch: Batch) -> float:
        return float((batch.targets[self.name] >= 0).sum())

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        classes_B = batch.targets[self.name]
        output = trunk.output(self.name, batch)
        pooled_BD = getattr(output, "pooler_output", None)
        if pooled_BD is None:
            pooled_BD = output.last_hidden_state[:, 0]
        head = self._shared[0] if self._shared else self.head
        logits_B2 = head(pooled_BD).float()
        total = F.cross_entropy(logits_B2, classes_B, reduction="sum", ignore_index=-100)
        right = ((logits_B2.argmax(dim=1) == classes_B) & (classes_B >= 0)).sum()
        return Loss(total, (classes_B >= 0).sum(), {"right": right.detach()})


class OtherHalves:
    """Draws a half of another text: what follows a sentence by chance."""

    def __init__(self, halves: Halves, rows: Any, pad_id: int):
        self.halves = halves
        self.table = TokenTable(rows, pad_id=pad_id)

    def draw(self, row: int, rng: np.random.Generator) -> np.ndarray | None:
        """The second half of another row than `row`; None if none was found that can be cut."""
        if len(self.table) < 2:
            return None
        for number in rng.integers(len(self.table) - 1, size=TRIES):
            other = int(number) + (number >= row)
            cut = self.halves.cut(self.table.inputs(np.array([other]))["input_ids"][0].numpy())
            if cut is not None:
                return cut[1]
        return None

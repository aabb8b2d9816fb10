"""Pairs out of texts, for objectives that ask how two pieces belong together: each text is cut at a sentence's end.

Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from llmtune.core.protocols import Views
from llmtune.core.seeds import generator
from llmtune.core.types import Batch, Loss
from llmtune.data.feed import TokenTable

ENDS = frozenset(".!?;\u3002\uff01\uff1f\uff1b")
"""what a sentence ends with"""
FEWEST = 4
"""tokens of a text that can be cut"""

Draw = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray, int]]
"""first half, second half, a generator -> the pair that is shown, and its class (0 or 1)"""


class Halves:
    """Cuts rows in two and puts pieces together again, with the tokenizer's special tokens around and between."""

    def __init__(self, tokenizer: Any, max_tokens: int):
        self.max_tokens, self.pad_id = max_tokens, tokenizer.pad_token_id
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self.ends_V = np.array([token.lstrip("#\u2581\u0120")[-1:] in ENDS for token in tokens])
        self.special_V = np.zeros(len(tokens), dtype=bool)
        self.special_V[tokenizer.all_special_ids] = True
        encoded = tokenizer("a", "a")
        sequence = encoded.sequence_ids(0)
        first, second = sequence.index(0), sequence.index(1)
        last = len(sequence) - 1 - sequence[::-1].index(0)
        end = len(sequence) - 1 - sequence[::-1].index(1)
        ids = encoded["input_ids"]
        self.around = (ids[:first], ids[last + 1 : second], ids[end + 1 :])
        types = encoded.get("token_type_ids")
        self.second_type = types[second] if types is not None else None

    def cut(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The text's tokens before and after the sentence's end that is nearest to its middle; None: too short."""
        text = ids[~self.special_V[ids]]
        if len(text) < FEWEST:
            return None
        after = np.flatnonzero(self.ends_V[text[:-1]]) + 1
        middle = len(text) // 2
        at = int(after[np.abs(after - middle).argmin()]) if len(after) else middle
        return text[:at], text[at:]

    def view(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Model inputs of the pairs, padded on the right; what is too long loses its outer ends."""
        before, between, behind = self.around
        room = self.max_tokens - len(before) - len(between) - len(behind)
        rows, types = [], []
        for first, second in pairs:
            half = max(room // 2, room - len(second))
            first = first[-min(half, room - 1) :]
            second = second[: room - len(first)]
            rows.append([*before, *first, *between, *second, *behind])
            # the separator behind the first half is of the first, as BERT has it
            types.append(len(before) + len(first) + len(between))
        width = max(map(len, rows))
        ids_BT = torch.tensor([[*row, *[self.pad_id] * (width - len(row))] for row in rows])
        real_BT = torch.arange(width) < torch.tensor([[len(row)] for row in rows])
        view = {"input_ids": ids_BT}
        if self.second_type is not None:
            in_second_BT = (torch.arange(width) >= torch.tensor(types)[:, None]) & real_BT
            view["token_type_ids"] = in_second_BT.long() * self.second_type
        return view if bool(real_BT.all()) else {**view, "attention_mask": real_BT.long()}


class PairLoss(nn.Module):
    """Cross-entropy of a yes-or-no question about the two halves of each text, per text that can be cut."""

    def __init__(self, name: str, feed: str, weight: Callable[[int], float], halves: Halves, width: int, draw: Draw):
        super().__init__()
        self.name, self.feed, self.weight = name, feed, weight
        self.halves, self.draw = halves, draw
        self.head = nn.Linear(width, 2)

    def prepare(self, batch: Batch) -> None:
        """Adds the view of pairs and their classes_B; -100 where a text can't be cut and is shown as it is."""
        clean = batch.views["clean"]
        mask_BT = clean.get("attention_mask")
        pairs, classes = [], []
        for row, seed in enumerate(batch.row_seeds):
            ids = clean["input_ids"][row].numpy()
            ids = ids if mask_BT is None else ids[mask_BT[row].numpy() != 0]
            cut = self.halves.cut(ids)
            if cut is None:
                pairs.append((ids, ids[:1]))
                classes.append(-100)
            else:
                first, second, answer = self.draw(*cut, generator(seed, self.name))
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
        logits_B2 = self.head(pooled_BD).float()
        total = F.cross_entropy(logits_B2, classes_B, reduction="sum", ignore_index=-100)
        right = ((logits_B2.argmax(dim=1) == classes_B) & (classes_B >= 0)).sum()
        return Loss(total, (classes_B >= 0).sum(), {"right": right.detach()})


class OtherHalves:
    """Draws a half of another text: what follows a sentence by chance."""

    def __init__(self, halves: Halves, rows: Any, pad_id: int):
        self.halves = halves
        self.table = TokenTable(rows, pad_id=pad_id)

    def draw(self, rng: np.random.Generator) -> np.ndarray | None:
        """The second half of a random row; None if it can't be cut."""
        row = int(rng.integers(len(self.table)))
        cut = self.halves.cut(self.table.inputs(np.array([row]))["input_ids"][0].numpy())
        return None if cut is None else cut[1]

"""Two sights of a row that shall be known as one: other dropout, two spans of it, or the two texts of a pair.

Legend: T tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llmtune.core.seeds import fold, generator
from llmtune.core.types import Batch
from llmtune.model.similarity import ANCHOR, BYSTANDER, LIKE, NEGATIVE
from llmtune.objective.row_comparison import SECOND, add_second_view

SIDE, TEXT = "contrastive/side", "contrastive/text"
"""names among a batch's targets: what each item is, and a number that equal rows share"""


class DropoutViews:
    """The clean view twice: its dropout differs (SimCSE, arXiv 2104.08821)."""

    views = ("clean", SECOND)

    def add(self, batch: Batch) -> None:
        add_second_view(batch)
        _settle(batch, [row["input_ids"].tobytes() for row in _rows_of(batch.views["clean"])])


class CroppedViews:
    """Two spans of each row, drawn from its seed; the special tokens around it stay (arXiv 2112.09118)."""

    views = ("contrastive/span 1", "contrastive/span 2")

    def __init__(self, tokenizer: Any, least: float):
        self.least = least
        """share of a row's tokens that a span has at least"""
        self.pad_id = tokenizer.pad_token_id
        around = (tokenizer.cls_token_id, tokenizer.bos_token_id, tokenizer.sep_token_id, tokenizer.eos_token_id)
        self.around = [token for token in around if token is not None]

    def add(self, batch: Batch) -> None:
        rows = _rows_of(batch.views["clean"])
        draws = [generator(fold(seed, "contrastive")) for seed in batch.row_seeds]
        for view in self.views:
            spans = [self._span(row, draw) for row, draw in zip(rows, draws)]
            batch.views[view] = padded(spans, self.pad_id)
        _settle(batch, [row["input_ids"].tobytes() for row in rows])

    def _span(self, row: dict[str, np.ndarray], draw: np.random.Generator) -> dict[str, np.ndarray]:
        inside = np.flatnonzero(~np.isin(row["input_ids"], self.around))
        if not len(inside):
            return row
        first, last = int(inside[0]), int(inside[-1]) + 1
        length = max(1, round((last - first) * draw.uniform(self.least, 1.0)))
        start = first + int(draw.integers(0, last - first - length + 1))
        kept = np.r_[0:first, start : start + length, last : len(row["input_ids"])]
        return {name: values[kept] for name, values in row.items()}


class PairViews:
    """The two texts of a pair, each by itself; and for rows that have one, a text that the first is unlike."""

    views = ("contrastive/text", "contrastive/text_pair")
    negative = "contrastive/negative"

    def __init__(
        self, rows: Any, tokenizer: Any, max_tokens: int, *, positives: Sequence[int], negatives: Sequence[int]
    ):
        """`positives`, `negatives`: classes whose pairs are alike, and unlike; no positives: all but the unlike."""
        self.rows = rows.with_format(None).select_columns(["text", "text_pair"])
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        classes = rows.with_format(None)["target"][:] if positives or negatives else [None] * len(rows)
        unlike = [number for number, one in enumerate(classes) if one in negatives]
        self.alike = [one in positives if positives else one not in negatives for one in classes]
        self.unlike: dict[str, list[int]] = {}
        """text -> rows in which something unlike stands beside it"""
        for number, text in zip(unlike, self.rows[unlike]["text"] if unlike else ()):
            self.unlike.setdefault(text, []).append(number)

    def add(self, batch: Batch) -> None:
        found = [place for place, row in enumerate(batch.row_ids) if self.alike[row]]
        places = found or [0]
        texts = self.rows[[batch.row_ids[place] for place in places]]
        chosen = [self._negative(text, batch.row_seeds[place]) for place, text in zip(places, texts["text"])]
        against = [row for row in chosen if row is not None] if found else []
        for view, some in zip(self.views, (texts["text"], texts["text_pair"])):
            batch.views[view] = self._encoded(some)
        if against:
            batch.views[self.negative] = self._encoded(self.rows[against]["text_pair"])
        _settle(batch, [text.encode("utf-8", "surrogatepass") for text in texts["text"]], len(against), bool(found))

    def _negative(self, text: str, seed: int) -> int | None:
        rows = self.unlike.get(text)
        return rows[fold(seed, "contrastive") % len(rows)] if rows else None

    def _encoded(self, texts: list[str]) -> dict[str, torch.Tensor]:
        encoded = self.tokenizer(texts, truncation=True, max_length=self.max_tokens, padding=True, verbose=False,
                                 return_tensors="pt")  # fmt: skip
        return {name: encoded[name] for name in ("input_ids", "token_type_ids", "attention_mask") if name in encoded}


def padded(rows: Sequence[dict[str, np.ndarray]], pad_id: int) -> dict[str, torch.Tensor]:
    """Model inputs of rows of several lengths, padded on the right."""
    lengths = np.array([len(row["input_ids"]) for row in rows])
    real = np.arange(lengths.max()) < lengths[:, None]
    view = {}
    for name in rows[0]:
        filled = np.full(real.shape, pad_id if name == "input_ids" else 0, dtype=np.int64)
        filled[real] = np.concatenate([row[name] for row in rows])
        view[name] = torch.from_numpy(filled)
    return {**view, "attention_mask": torch.from_numpy(real.astype(np.int64))}


def _rows_of(view: dict[str, torch.Tensor]) -> list[dict[str, np.ndarray]]:
    """The inputs of each row of a view without padding."""
    mask = view.get("attention_mask", torch.ones_like(view["input_ids"]))
    lengths = mask.sum(1).tolist()
    names = [name for name in view if name != "attention_mask"]
    return [{name: view[name][row, :length].numpy() for name in names} for row, length in enumerate(lengths)]


def _settle(batch: Batch, rows: Sequence[bytes], num_negatives: int = 0, anchors: bool = True) -> None:
    """Write down what each item is: all rows, then all their other sights, then what is unlike them."""
    num = len(rows)
    sides = [ANCHOR] * num + [LIKE] * num if anchors else [BYSTANDER] * (2 * num)
    numbers = [int.from_bytes(hashlib.blake2b(row, digest_size=8).digest(), "big", signed=True) for row in rows]
    batch.targets[SIDE] = torch.tensor(sides + [NEGATIVE] * num_negatives)
    batch.targets[TEXT] = torch.tensor(numbers * 2 + [0] * num_negatives)

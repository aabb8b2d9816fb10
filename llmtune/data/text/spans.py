"""Span corruption: spans of a row are taken out, each behind a sentinel of its own (T5, arXiv 1910.10683, 3.1.4).

Legend: B rows, T tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llmtune.core.seeds import generator

IGNORED = -100
"""target of a position that is not predicted"""
NOISE_SHARE, MEAN_SPAN = 0.15, 3.0
"""of T5"""


def sentinels_of(tokenizer: Any) -> list[int]:
    """Ids of <extra_id_0>, <extra_id_1> and so on."""
    vocabulary = tokenizer.get_vocab()
    names = itertools.takewhile(vocabulary.__contains__, (f"<extra_id_{i}>" for i in itertools.count()))
    return [vocabulary[name] for name in names]


class Spans:
    """Takes spans out of rows: what the encoder reads, and what the decoder has to write."""

    def __init__(self, tokenizer: Any, config: Any, noise_share: float, mean_span: float):
        self.noise_share, self.mean_span = noise_share, mean_span
        self.sentinels = sentinels_of(tokenizer)
        self.special = np.array([i for i in tokenizer.all_special_ids if i not in self.sentinels])
        self.end_id, self.pad_id = config.eos_token_id, config.pad_token_id
        start = config.decoder_start_token_id
        self.start_id = config.pad_token_id if start is None else start

    def cut(self, ids: np.ndarray, rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """A row's tokens with each span replaced by a sentinel, and the spans, each behind its sentinel."""
        text = ids[~np.isin(ids, self.special)]
        num_noise = min(max(1, round(self.noise_share * len(text))), len(text) - 1)
        if num_noise < 1:
            return [*text.tolist(), self.end_id], [self.end_id]
        num_spans = min(max(1, round(num_noise / self.mean_span)), len(text) - num_noise, len(self.sentinels))
        noise, kept = _parts(num_noise, num_spans, rng), _parts(len(text) - num_noise, num_spans, rng)
        shown: list[int] = []
        wanted: list[int] = []
        at = 0
        for sentinel, keep, take in zip(self.sentinels, kept, noise):
            shown += [*text[at : at + keep].tolist(), sentinel]
            wanted += [sentinel, *text[at + keep : at + keep + take].tolist()]
            at += keep + take
        return [*shown, self.end_id], [*wanted, self.end_id]

    def views(
        self, clean: dict[str, torch.Tensor], row_seeds: Sequence[int], name: str
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """What the encoder reads and the decoder is given, and targets_BT of the decoder (-100 at padding).

        All draws derive from a seed a row and `name`, so they don't depend on how batches are cut.
        """
        mask_BT = clean.get("attention_mask")
        cuts = []
        for row, seed in enumerate(row_seeds):
            ids = clean["input_ids"][row].numpy()
            ids = ids if mask_BT is None else ids[mask_BT[row].numpy() != 0]
            cuts.append(self.cut(ids, generator(seed, name)))
        shown_BT = _padded([shown for shown, _ in cuts], self.pad_id)
        given_BT = _padded([[self.start_id, *wanted[:-1]] for _, wanted in cuts], self.pad_id)
        lengths_B1 = torch.tensor([[len(shown)] for shown, _ in cuts])
        view = {
            "input_ids": shown_BT, "attention_mask": (torch.arange(shown_BT.shape[1]) < lengths_B1).long(),
            "decoder_input_ids": given_BT,
        }  # fmt: skip
        return view, _padded([wanted for _, wanted in cuts], IGNORED)


def _parts(total: int, count: int, rng: np.random.Generator) -> list[int]:
    """`total` as a sum of `count` numbers from 1 on, all such sums alike probable."""
    cuts = np.sort(rng.choice(total - 1, size=count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]])).tolist()


def _padded(rows: list[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])

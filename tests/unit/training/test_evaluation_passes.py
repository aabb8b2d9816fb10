"""Rows of many sequences go through the model in passes that are no larger than others."""

from __future__ import annotations

import datasets
import numpy as np
import torch
from torch import nn

from llmtune.core.types import Batch
from llmtune.data.batches.feed import EvaluationFeed, TokenTable, TrainFeed
from llmtune.data.batches.order import Order
from llmtune.training.evaluation import _in_passes


def table() -> TokenTable:
    """Four rows of one long sequence and many short ones, and four of one alone."""
    cuts = [[50, *[2] * 30]] * 4 + [[8]] * 4
    ids = [[1] * sum(row) for row in cuts]
    rows = {"input_ids": ids, "cuts": cuts, "length": [len(row) for row in ids]}
    return TokenTable(datasets.Dataset.from_dict(rows).cast_column(
        "length", datasets.Value("int32")), pad_id=0)  # fmt: skip


def test_a_row_costs_its_sequences_times_the_longest() -> None:
    assert table().costs.tolist() == [31 * 50] * 4 + [8] * 4


def test_batches_keep_to_their_budget_with_padding() -> None:
    rows = table()
    order = Order(rows.lengths, seed=0, batch_rows=8, batch_tokens=None)
    train = TrainFeed(rows, order, lambda targets, cuts: {}, micro_tokens=1600)
    for batch in [*train.at(0), *EvaluationFeed(rows, None, 1600)]:
        assert batch is not None
        assert batch.views["clean"]["input_ids"].numel() <= 1600


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None):
        self.sizes.append(input_ids.numel())
        return type("Output", (), {"logits": input_ids.sum(1, keepdim=True).float(), "start_logits": None})


def test_a_row_of_more_windows_than_fit_goes_in_several_passes() -> None:
    batch: Batch = table().batch(np.array([0]), None)
    model = Counting()
    logits = _in_passes(model, batch, 400)
    assert max(model.sizes) <= 400
    assert len(model.sizes) == 4
    assert logits[:, 0].tolist() == [50.0, *[2.0] * 30]

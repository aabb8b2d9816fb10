"""Evaluation: every row once, over all processes, longest first.

Legend: N rows, C outputs of the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from llmtune.core.types import Batch
from llmtune.data.feed import EvaluationFeed
from llmtune.hardware.machine import Machine

Forward = Callable[[Batch], torch.Tensor]


@dataclass(frozen=True)
class Evaluation:
    scores: dict[str, float]
    logits_NC: np.ndarray
    """by row, in the order of the data"""
    seconds: float
    real_tokens: int


@dataclass(frozen=True)
class Scored:
    """Rows, the model that is run on them, and the task that scores them."""

    model: nn.Module
    feed: EvaluationFeed
    task: Any


def predict(
    model: nn.Module, feed: EvaluationFeed, machine: Machine, *, task: Any = None,
    should_stop: Callable[[], bool] = lambda: False, forward: Forward | None = None,
) -> tuple[np.ndarray, float] | None:  # fmt: skip
    """Logits of all rows of `feed` (N, C) on every process, and the mean loss if `task` is given (else NaN).

    None if a stop was asked for. The model is left in the mode (train or eval) it was in. `forward`: its logits of a
    batch's clean view by another way, such as the trunk's, which has a prefix cache.
    """
    was_training = model.training
    modes = {module: module.training for module in model.modules()} if was_training else {}
    model.eval()
    rows: list[int] = []
    pieces: list[np.ndarray] = []
    total = count = 0.0
    try:
        with machine.inference():
            for batch in feed:
                if machine.add_up([float(should_stop())])[0]:
                    return None
                if batch is None:
                    continue
                batch = batch.to(machine.device)
                if hasattr(task, "outputs"):  # of so many words that their logits are added up at once
                    logits_BC = task.outputs(model, batch)
                else:
                    logits_BC = (model(**batch.views["clean"]).logits if forward is None else forward(batch)).float()
                if task is not None:
                    loss = task.loss(logits_BC, batch.targets)
                    total, count = total + float(loss.total), count + float(loss.count)
                pieces.append(logits_BC.cpu().numpy())
                rows.extend(batch.row_ids)
    finally:
        for module, mode in modes.items():
            module.training = mode
    total, count = machine.add_up([total, count])
    gathered = machine.gather([(rows, np.concatenate(pieces) if pieces else np.zeros((0, 1), dtype=np.float32))])
    return _in_order(gathered, len(feed.table)), total / count if count else float("nan")


def evaluate(
    model: nn.Module, feed: EvaluationFeed, machine: Machine, task: Any,
    should_stop: Callable[[], bool] = lambda: False, forward: Forward | None = None,
) -> Evaluation | None:  # fmt: skip
    """Loss and the task's scores over all rows of `feed`; None if a stop was asked for."""
    start = time.perf_counter()
    done = predict(model, feed, machine, task=task, should_stop=should_stop, forward=forward)
    if done is None:
        return None
    logits_NC, loss = done
    scores = {"loss": loss, **task.score(logits_NC, target_array(task, feed))}
    return Evaluation(scores, logits_NC, time.perf_counter() - start, int(feed.table.lengths.sum()))


def target_array(task: Any, feed: EvaluationFeed) -> np.ndarray:
    """The targets of all rows as one array, in the form that `task.score` takes."""
    return task.collate_targets(feed.table.targets)["label"].numpy()


def _in_order(gathered: list[tuple[list[int], np.ndarray]], num_rows: int) -> np.ndarray:
    width = max(piece.shape[1] for _, piece in gathered)
    logits_NC = np.full((num_rows, width), np.nan, dtype=np.float32)
    for rows, piece in gathered:
        if rows:
            logits_NC[rows] = piece
    return logits_NC

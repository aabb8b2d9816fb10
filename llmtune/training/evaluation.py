"""Evaluation: every row once, over all processes, longest first; what comes out is kept on the disk.

Legend: N rows, B rows of a batch, R sequences, C outputs of the model.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from llmtune.core.types import Batch
from llmtune.data.batches.feed import EvaluationFeed
from llmtune.hardware.machine import Machine
from llmtune.model.outputs import logits_of
from llmtune.scoring.predictions import Outcomes, Predictions

Forward = Callable[[Batch], torch.Tensor]
TURNS = 64
"""batches after which processes tell each other what came out"""


@dataclass(frozen=True)
class Evaluation:
    scores: dict[str, float]
    predictions: Predictions
    seconds: float
    real_tokens: int


@dataclass(frozen=True)
class Scored:
    """Rows, the model that is run on them, and the task that scores them."""

    model: nn.Module
    feed: EvaluationFeed
    task: Any


    @property
    def is_sampled(self) -> bool:
        """Are fewer rows answered in words while training than there are?"""
        count = len(self.feed.table)
        return hasattr(self.task, "generate") and len(self.task.generated_rows(count, False)) < count


@dataclass
class LossSum:
    """A loss over many batches."""

    total: float = 0.0
    count: float = 0.0

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else float("nan")

    @property
    def named(self) -> dict[str, float]:
        """As one of the scores; none where nothing was counted."""
        return {"loss": self.mean} if self.count else {}


def predict(
    model: nn.Module, feed: EvaluationFeed, machine: Machine, outcomes: Outcomes, *, task: Any = None,
    should_stop: Callable[[], bool] = lambda: False, forward: Forward | None = None, thorough: bool = True,
) -> LossSum | None:  # fmt: skip
    """Put what the model makes of all rows of `feed` into `outcomes`, on every process; their loss, if `task` is given.
    Where a task has answers in words, they are written in a second pass, and stand behind what the first one gave.

    None if a stop was asked for. The model is left in the mode (train or eval) it was in.

    Args:
        forward: the model's logits of a batch's clean view by another way, such as the trunk's, which has a prefix
            cache.
        thorough: are all rows to be answered in words, or as many as the task takes for a look at it in training?
    """
    modes = {module: module.training for module in model.modules()} if model.training else {}
    model.eval()
    loss = LossSum()

    def first(batch: Batch) -> list[np.ndarray]:
        return _run(model, batch, task, forward, loss, feed.max_tokens)

    def second(batch: Batch) -> list[np.ndarray]:
        before = [outcomes.get(row) for row in batch.row_ids]
        return [np.concatenate(parts) for parts in zip(before, task.generate(model, batch), strict=True)]

    passes = [(feed, first)]
    if hasattr(task, "generate"):
        rows = np.asarray(task.generated_rows(len(feed.table), thorough), dtype=np.int64)
        passes += [(dataclasses.replace(feed, rows=rows), second)] if len(rows) else []
    try:
        with machine.inference():
            done = all(_walk(rows, run, machine, outcomes, should_stop) for rows, run in passes)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return LossSum(*machine.add_up([loss.total, loss.count])) if done else None


def _walk(
    feed: EvaluationFeed, run: Callable[[Batch], list[np.ndarray]], machine: Machine, outcomes: Outcomes,
    should_stop: Callable[[], bool],
) -> bool:  # fmt: skip
    """One pass over the rows of `feed`, what comes out kept on every process; False if a stop was asked for."""
    mine: list[Any] = []
    for turn, batch in enumerate(feed):
        if machine.add_up([float(should_stop())])[0]:
            return False
        if batch is not None:
            mine.append((batch.row_ids, run(batch.to(machine.device))))
        if turn % TURNS == TURNS - 1 or machine.world == 1:
            _share(mine, machine, outcomes)
    _share(mine, machine, outcomes)
    return True


def _run(
    model: nn.Module, batch: Batch, task: Any, forward: Forward | None, loss: LossSum, max_tokens: int
) -> list[np.ndarray]:
    """What is kept of each row of a batch, whose loss is added."""
    if hasattr(task, "examine"):
        arrays, own = task.examine(model, batch)
        loss.total, loss.count = loss.total + float(own.total), loss.count + float(own.count)
        return arrays
    if hasattr(task, "run"):  # of so many words that their logits are added up at once
        logits = task.run(model, batch)
    else:
        several = len(batch.views["clean"]["input_ids"]) > len(batch.row_ids)
        logits = (_in_passes(model, batch, max_tokens) if forward is None or several else forward(batch)).float()
    of_rows = not getattr(task, "pooled", False)  # else it would hang on which rows meet in a batch
    if task is not None and of_rows and (batch.targets or hasattr(task, "run")):
        own = task.loss(logits, batch.targets)
        loss.total, loss.count = loss.total + float(own.total), loss.count + float(own.count)
    if hasattr(task, "outputs"):
        return task.outputs(logits, batch)
    return by_row(logits, batch)


def _in_passes(model: nn.Module, batch: Batch, max_tokens: int) -> torch.Tensor:
    """Logits of a batch's sequences, in as many passes as `max_tokens` asks for: a book is one row of many windows."""
    view = batch.views["clean"]
    num_sequences, width = view["input_ids"].shape
    each = max(1, max_tokens // width) if num_sequences > len(batch.row_ids) else num_sequences
    return torch.cat([
        logits_of(model(**{name: values[start : start + each] for name, values in view.items()}))
        for start in range(0, num_sequences, each)
    ])  # fmt: skip


def by_row(logits: torch.Tensor, batch: Batch) -> list[np.ndarray]:
    """What the model gave for each row: (C,), or for rows of several sequences (sequences, C)."""
    found = logits.cpu().numpy()
    if all(count == 1 for count in batch.num_sequences) and len(found) == len(batch.num_sequences):
        return list(found)
    return np.split(found, np.cumsum(batch.num_sequences)[:-1])


def _share(mine: list[Any], machine: Machine, outcomes: Outcomes) -> None:
    """Every process keeps what all of them found since the last time."""
    for rows, arrays in machine.gather(mine):
        outcomes.put(rows, arrays)
    mine.clear()


def evaluate(
    model: nn.Module, feed: EvaluationFeed, machine: Machine, task: Any,
    should_stop: Callable[[], bool] = lambda: False, forward: Forward | None = None, thorough: bool = True,
) -> Evaluation | None:  # fmt: skip
    """Loss and the task's scores over all rows of `feed`; None if a stop was asked for. `thorough`: see predict."""
    start = time.perf_counter()
    outcomes = Outcomes(len(feed.table))
    loss = predict(
        model, feed, machine, outcomes, task=task, should_stop=should_stop, forward=forward, thorough=thorough
    )
    if loss is None:
        return None
    predictions = Predictions(feed.table.dataset, outcomes)
    # by one process for all: programs of a task may be run for it, and what they say may differ
    (own,) = machine.gather([task.score(predictions)] if machine.is_main else [])
    scores = {**loss.named, **own}
    return Evaluation(scores, predictions, time.perf_counter() - start, int(feed.table.lengths.sum()))

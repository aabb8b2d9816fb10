"""What the model makes of all rows before the first step, for tasks that compare with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from llmtune.core.errors import Stopped
from llmtune.data.batches.feed import EvaluationFeed, table_of
from llmtune.hardware.machine import Machine
from llmtune.scoring.predictions import Outcomes
from llmtune.training.evaluation import predict


def look_before(
    task: Any, model: Any, splits: Mapping[str, Any], tokenizer: Any, machine: Machine, *, max_tokens: int,
    should_stop: Callable[[], bool], say: Callable[[str], None],
) -> None:  # fmt: skip
    """`task.remember(split, rows, outcomes)` for each split, with the model as it is: in eval mode, without gradient.

    A run that is gone on with loads the weights that it began with before those of its checkpoint, so it comes to the
    same numbers, and they need not be saved.

    Raises:
        Stopped: a stop was asked for.
    """
    start = time.perf_counter()
    found = {}
    for split, rows in splits.items():
        feed = EvaluationFeed(table_of(rows, tokenizer, task), None, max_tokens, machine.rank, machine.world)
        outcomes = Outcomes(len(rows))
        if predict(model, feed, machine, outcomes, should_stop=should_stop) is None:
            raise Stopped("stopped while the model was asked for all rows before the first step; nothing is lost")
        found[split] = outcomes
    for split, outcomes in found.items():
        task.remember(split, splits[split], outcomes)
    number = sum(len(rows) for rows in splits.values())
    say(f"reference: the model as it is before the first step, asked for {number:,} rows "
        f"in {time.perf_counter() - start:.1f} s")  # fmt: skip

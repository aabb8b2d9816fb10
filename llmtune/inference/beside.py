"""What a run leaves of the tasks that were learnt beside its own: their scores, and models on the same backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from llmtune.data.batches.feed import EvaluationFeed, table_of
from llmtune.inference.model_folder import make_card
from llmtune.training.evaluation import Scored

NOT_OF_ROWS = ("name", "columns", "max_tokens", "cache_dir")
"""settings of data that say nothing of where a task's rows lie and how they are read"""


def scores_beside(
    trainer: Any, prepared: Any, kept: Mapping[str, Mapping[str, float]] | None, evaluated: Callable[[Scored], Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """By feed the scores of validation, and of test where a task has such rows, of the weights that are loaded.

    Args:
        kept: those of validation, where they are known.
        evaluated: scores rows.
    """
    validation, test = dict(kept or {}), {}
    for feed, one in trainer.beside.items():
        if feed not in validation or one.is_sampled:
            validation[feed] = evaluated(one).scores
        # what is tuned on validation, before test is looked at
        if hasattr(one.task, "settle") and one.task.settle(validation[feed]):
            validation[feed] = evaluated(one).scores
    for part in trainer.composite.objectives.values():
        rows = prepared.feeds[part.feed].splits if hasattr(part, "scored_by") else {}
        if "test" in rows:
            model, task = part.scored_by
            machine = trainer.machine
            table = table_of(rows["test"], prepared.tokenizer, task)
            place = (trainer.feed.micro_tokens, machine.rank, machine.world)
            test[part.feed] = evaluated(Scored(model, EvaluationFeed(table, task.collate_targets, *place), task)).scores
    return validation, test


def models_beside(trainer: Any, prepared: Any, card: Mapping[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """By feed, which is also the place in model/: models of other tasks on the same backbone, with their cards.

    A card says where the task's rows lie, so that `evaluate` finds them.
    """
    found = {}
    for part in trainer.composite.objectives.values():
        if hasattr(part, "scored_by"):
            model, task = part.scored_by
            feed = prepared.feeds[part.feed]
            asked = dataclasses.replace(prepared.config, task=task.settings, data=feed.data)
            columns = feed.report["splits"]["train"]["found"][0]["columns"]
            own = make_card(asked, task, max_tokens=prepared.max_tokens, columns=columns, metric=task.metric)
            rows = {key: value for key, value in dataclasses.asdict(feed.data).items() if key not in NOT_OF_ROWS}
            found[part.feed] = (model.to("cpu").eval(), {**card, **own, "score": None, "data": rows})
    return found

"""What a classifier's logits say of each row, and where they are wrong.

Legend: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from llmtune.data.labels import LabelTable
from llmtune.scoring.breakdown import breakdown, worst_errors, worst_rows
from llmtune.scoring.classification import probabilities
from llmtune.scoring.predictions import Predictions


def decoded(
    problem_type: str, labels: LabelTable | None, threshold: float, logits_NC: Sequence[np.ndarray]
) -> list[dict[str, Any]]:
    """For each row `label` (name, list of names, or number), `probability` of a single one, `probabilities` by name."""
    if labels is None:
        return [{"label": float(number.reshape(-1)[0])} for number in logits_NC]
    found: list[dict[str, Any]] = []
    for chances_C in probabilities(problem_type, np.stack(logits_NC)) if len(logits_NC) else ():
        chances = {name: float(p) for name, p in zip(labels.names, chances_C)}
        if problem_type == "single_label":
            label = labels.names[int(chances_C.argmax())]
            found.append({"label": label, "probability": chances[label], "probabilities": chances})
        else:
            given = [name for name, p in chances.items() if p >= threshold]
            found.append({"label": given, "probabilities": chances})
    return found


def judged(task: Any, predictions: Predictions, num_worst: int) -> dict[str, Any]:
    """Of a classification: the per-class table, the confusion, and the rows that are most surely wrong."""
    threshold, blocks = task.settings.threshold, partial(task.blocks, predictions)
    names = task.labels.names if task.labels else ()
    table = breakdown(task.problem_type, blocks, names, threshold)
    worst = predictions.some(worst_rows(task.problem_type, blocks, num_worst, threshold))
    assert worst.targets is not None  # what is judged has labels
    facts = [_facts(worst.columns, row, target, names) for row, target in enumerate(worst.targets)]
    return {**table, "worst": worst_errors(facts, task.decode(worst))}


def _facts(columns: dict[str, list[Any]], row: int, target: Any, names: Sequence[str]) -> dict[str, Any]:
    """What a reader needs of a row, its label as the model knows it."""
    gold = target if not names else names[target] if isinstance(target, int) else [names[i] for i in target]
    texts = {role: columns[role][row] for role in ("text", "text_pair") if columns.get(role, [None] * (row + 1))[row]}
    return {"file": columns["file"][row], "line": columns["line"][row], "gold": gold, **texts}

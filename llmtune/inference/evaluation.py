"""A trained model held against rows with labels: scores, a breakdown, the worst errors.

Legend: N rows, C outputs of the model.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmtune.config.settings import Config, DataSettings
from llmtune.data.rows import read_splits
from llmtune.inference.predictor import Predictor
from llmtune.inference.run_folder import ModelPlace, naming_columns, trained_task
from llmtune.scoring.breakdown import breakdown, worst_errors, worst_rows

NUM_WORST = 100
"""errors kept in the report"""
SHOWN_LINES = 5


@dataclass(frozen=True)
class Scored:
    rows: Any
    """the raw rows of the split"""
    logits_NC: np.ndarray
    task: Any
    report: dict[str, Any]
    """ready for JSON"""


def score_rows(place: ModelPlace, config: Config, data: DataSettings, split: str) -> Scored:
    """Read the rows of `split` that `data` names and score the model on all of them; longer ones are cut.

    Raises:
        DataError: the rows can't be read, or have labels that the model does not know.
    """
    start = time.perf_counter()
    task = trained_task(place, config.run.plugins)
    roles = [dataclasses.replace(role, required=True) for role in task.roles if role.name in place.card["columns"]]
    with naming_columns():
        raw = read_splits(data, roles, only=[split], offline=config.offline)
    rows = raw.splits[split]
    targets = task.read_labels(raw, data.label_names, data.label_delimiter).targets[split]
    predictor = Predictor(place, config)
    logits_NC = predictor.logits({role.name: rows[role.name][:] for role in roles if role.name != "label"})
    report = {
        "split": split,
        "data": _shown(getattr(data, split), split),
        "model": str(place.model),
        "rows": len(rows),
        "metric": task.metric,
        "remarks": _remarks(raw.report["splits"][split], predictor),
        **_judged(task, rows, logits_NC, targets),
        "seconds": round(time.perf_counter() - start, 3),
    }
    return Scored(rows, logits_NC, task, report)


def _judged(task: Any, rows: Any, logits_NC: np.ndarray, targets: list[Any]) -> dict[str, Any]:
    tensors = task.collate_targets(targets)
    loss = task.loss(torch.from_numpy(logits_NC), tensors)
    truth, threshold = tensors["label"].numpy(), getattr(task.settings, "threshold", 0.5)
    names = task.labels.names if task.labels else ()
    worst = worst_rows(task.problem_type, logits_NC, truth, NUM_WORST, threshold)
    facts = [_facts(rows[row], targets[row], names) for row in worst]
    return {
        "scores": {"loss": float(loss.total / loss.count), **task.score(logits_NC, truth)},
        **breakdown(task.problem_type, logits_NC, truth, names, threshold),
        "worst": worst_errors(facts, task.decode(logits_NC[worst])),
    }


def _facts(row: dict[str, Any], target: Any, names: Any) -> dict[str, Any]:
    """What a reader needs of a row, its label as the model knows it."""
    gold = target if not names else names[target] if isinstance(target, int) else [names[i] for i in target]
    texts = {role: row[role] for role in ("text", "text_pair") if row.get(role) is not None}
    return {"file": row["file"], "line": row["line"], "gold": gold, **texts}


def _shown(given: str | list[str] | None, split: str) -> str:
    if given is None:
        return f"{split} (a share of train)"
    return given if isinstance(given, str) else ", ".join(given)


def _remarks(found: dict[str, Any], predictor: Predictor) -> list[str]:
    lines = [
        f"{entry['count']} row(s) dropped, {reason}: {', '.join(entry['lines'][:SHOWN_LINES])}"
        for reason, entry in found["dropped"].items()
    ]
    if predictor.num_cut:
        lines.append(f"{predictor.num_cut} row(s) longer than {predictor.max_tokens} tokens were cut")
    return lines

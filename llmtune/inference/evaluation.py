"""A trained model held against rows with labels: scores, a breakdown, the worst errors."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from llmtune.config.settings import Config, DataSettings
from llmtune.data.rows import read_splits
from llmtune.inference.predictor import Predictor
from llmtune.inference.run_folder import ModelPlace, naming_columns, roles_of, trained_task
from llmtune.scoring.predictions import Predictions
from llmtune.training.evaluation import LossSum

NUM_WORST = 100
"""errors kept in the report"""
SHOWN_LINES, SHOWN_REASONS = 5, 5


@dataclass(frozen=True)
class Scored:
    predictions: Predictions
    task: Any
    report: dict[str, Any]
    """ready for JSON"""


def score_rows(place: ModelPlace, config: Config, data: DataSettings, split: str) -> Scored:
    """Read the rows of `split` that `data` names and score the model on all of them; longer ones are cut.

    Raises:
        DataError: the rows can't be read, or have labels that the model does not know.
    """
    start = time.perf_counter()
    task = trained_task(place, config.run.plugins, config.task)
    if getattr(task, "in_blocks", False):
        found, num_rows, predictor, predictions, loss = _blocks_run(place, config, data, split, task)
    else:
        with naming_columns():
            raw = read_splits(data, roles_of(task, place.card["columns"]), only=[split], offline=config.offline)
        targets = task.read_labels(raw, data.label_names, data.label_delimiter).targets[split]
        rows = raw.splits[split]  # with what the task put beside them
        predictor = Predictor(place, config, task)
        predictions, loss = predictor.run(rows, targets)
        found, num_rows = raw.report["splits"][split], len(rows)
    report = {
        "split": split,
        "data": _shown(getattr(data, split), split),
        "model": str(place.model),
        "rows": num_rows,
        "metric": task.metric,
        "remarks": [*_remarks(found, predictor), *(task.remarks(predictions) if hasattr(task, "remarks") else ())],
        "scores": {**loss.named, **task.score(predictions)},
        **task.judge(predictions, NUM_WORST),
        "seconds": round(time.perf_counter() - start, 3),
    }
    return Scored(predictions, task, report)


def _blocks_run(
    place: ModelPlace, config: Config, data: DataSettings, split: str, task: Any
) -> tuple[dict[str, Any], int, Predictor, Predictions, LossSum]:
    """Of text in blocks: what was found while it was read, how many there are, and what the model made of them."""
    from llmtune.data.text.block_splits import encode_blocks, open_texts
    from llmtune.model.backbone import tokenizer_sha

    with naming_columns():
        texts = open_texts(data, task.documents, only=[split], offline=config.offline)
    predictor = Predictor(place, config, task)
    tokenizer = predictor.tokenizer
    encoded = encode_blocks(
        texts, tokenizer, tokenizer_sha(tokenizer), predictor.max_tokens, next_words=task.next_words, progress=print
    )
    blocks = encoded.splits[split]
    return texts.report["splits"][split], len(blocks), predictor, *predictor.run_encoded(blocks)


def _shown(given: str | list[str] | None, split: str) -> str:
    if given is None:
        return f"{split} (a share of train)"
    return given if isinstance(given, str) else ", ".join(given)


def _remarks(found: dict[str, Any], predictor: Predictor) -> list[str]:
    dropped = list(found["dropped"].items())
    lines = [
        f"{entry['count']} row(s) dropped, {reason}: {', '.join(entry['lines'][:SHOWN_LINES])}"
        for reason, entry in dropped[:SHOWN_REASONS]
    ]
    rest = dropped[SHOWN_REASONS:]
    if rest:
        rows = sum(entry["count"] for _, entry in rest)
        lines.append(f"{rows} more row(s) dropped for {len(rest)} further reasons")
    if predictor.num_cut:
        lines.append(f"{predictor.num_cut} row(s) longer than {predictor.max_tokens} tokens were cut")
    return lines

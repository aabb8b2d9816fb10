"""Rows of sentence embeddings: what form they have, their scores, their texts as sequences."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmtune.core.errors import DataError, Fault
from llmtune.data.files.arrow_files import column_list, row_values
from llmtune.data.labels import SHOWN
from llmtune.data.splits import is_number
from llmtune.data.tokens.sequences import encode_sequences

MILLION = 10**6
NO_SCORE = -10 * MILLION
"""in a row's targets, where the score stands in millionths of its range"""


def has(rows: Any, name: str) -> bool:
    """Do the rows have this column, and anything in it?"""
    return name in rows.column_names and rows.data.column(name).null_count < len(rows)


def form_of(split: str, rows: Any) -> str:
    """`texts`, `pairs` or `scored_pairs`. Raises DataError where rows of a split differ, or can't be read as one."""
    faults = []
    for name in ("text_pair", "label"):
        values = row_values(rows, [name]) if has(rows, name) else ()
        missing = [number for number, (value,) in enumerate(values) if value is None]
        faults += [Fault(_place(rows, number), f"no {name}, other rows have one") for number in missing[:SHOWN]]
    if not has(rows, "text_pair"):
        faults += [
            Fault(f"data.{split}", f"rows have a {what}, but no text_pair", "", "type data.columns.text_pair=COLUMN")
            for what in ("negative", "label") if has(rows, what)
        ]  # fmt: skip
    elif has(rows, "negative") and has(rows, "label"):
        faults.append(Fault(f"data.{split}", "rows have scores and negatives", "one of the two"))
    if faults:
        raise DataError(*faults)
    return "scored_pairs" if has(rows, "label") else "pairs" if has(rows, "text_pair") else "texts"


def wrong_scores(split: str, rows: Any, score_range: Sequence[float] | None) -> list[Fault]:
    """Labels that are no finite numbers, or outside of the range, by file and line."""
    low, high = score_range or (-math.inf, math.inf)
    wrong = []
    for number, kept in enumerate(column_list(rows, "label") if has(rows, "label") else ()):
        value = json.loads(kept)
        if isinstance(value, list) or not is_number(value) or not math.isfinite(float(value)):
            wrong.append((number, f"{value!r} is no score: a finite number is needed"))
        elif not low <= float(value) <= high:
            wrong.append((number, f"score {value} is out of range: task.score_range is from {low:g} to {high:g}"))
    faults = [Fault(_place(rows, number), what) for number, what in wrong[:SHOWN]]
    if wrong:
        fix = "data.columns.label is how alike a pair is; give that column another name if it is something else"
        faults.append(Fault(f"data.{split}", f"{len(wrong)} of {len(rows)} scores can't be used", "", fix))
    return faults


def scores_of(rows: Any) -> list[float]:
    """The scores as numbers; empty where rows have none."""
    return [float(json.loads(kept)) for kept in column_list(rows, "label")] if has(rows, "label") else []


def facts_of(scores: Sequence[float]) -> dict[str, Any]:
    """What the data report says of scores."""
    if not scores:
        return {}
    mean = sum(scores) / len(scores)
    return {"min": min(scores), "mean": mean, "max": max(scores), "distinct": len(set(scores))}


def targets_of(rows: Any, scores: Sequence[float], score_range: Sequence[float] | None) -> list[list[int]]:
    """Of each row its score in millionths of the range, then a number for each of its texts, equal for equal texts."""
    low, high = score_range or (0.0, 1.0)
    names = [name for name in ("text_pair", "negative") if has(rows, name)]
    found = []
    for number, (text, *more) in enumerate(row_values(rows, ["text", *names])):
        score = round((scores[number] - low) / (high - low) * MILLION) if scores else NO_SCORE
        texts = _texts(text, **dict(zip(names, more)))
        found.append([score, *map(text_number, texts)])
    return found


def text_number(text: str) -> int:
    """63 bits of a text: equal for equal texts."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def encode_texts(tokenizer: Any, columns: Mapping[str, list[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
    """Each row's text, its partner and its negatives as sequences of their own."""
    rows = [_texts(*values) for values in zip(*(_column(columns, name) for name in ("text", "text_pair", "negative")))]
    made = encode_sequences(tokenizer, rows, None, max_tokens)
    return {key: made[key] for key in made if key != "cuts"} if columns.keys() == {"text"} else made


def _column(columns: Mapping[str, list[Any]], name: str) -> list[Any]:
    return columns.get(name) or [None] * len(columns["text"])


def _texts(text: str, text_pair: str | None = None, negative: str | None = None) -> list[str]:
    """A row's texts in their order; `negative`: JSON of a list."""
    return [text, *([] if text_pair is None else [text_pair]), *(json.loads(negative) if negative else [])]


def _place(rows: Any, number: int) -> str:
    row = rows[number]
    return f"{row['file']}:{row['line']}"

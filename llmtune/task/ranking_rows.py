"""Rows of rankings: how relevant their candidates are, and the sequences that a row becomes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmtune.core.errors import DataError, Fault
from llmtune.data.files.arrow_files import row_values
from llmtune.data.labels import SHOWN
from llmtune.data.tokens.sequences import encode_sequences

DRAWN = "drawn"
"""column of the numbers of candidates that were drawn for a row: JSON"""


def has(rows: Any, name: str) -> bool:
    """Do the rows have this column, and anything in it?"""
    return name in rows.column_names and rows.data.column(name).null_count < len(rows)


def relevance_of(split: str, rows: Any) -> list[list[int]]:
    """For each row how relevant its candidates are: whole numbers from 0 on; 1 where rows have no label.

    A label is how relevant `text_pair` is, the number of the best of `choices` (from 0) or its text, or a list with a
    number for each. Raises DataError with file and line of rows whose label fits none of these.
    """
    listed = has(rows, "choices")
    if listed and not has(rows, "label"):
        raise DataError(
            Fault(f"data.{split}", "rows list their candidates, and no label says which is the best", "",
                  "type data.columns.label=COLUMN")
        )  # fmt: skip
    if not has(rows, "label"):
        return [[1]] * len(rows)
    found, faults = [], []
    for number, (kept, *some) in enumerate(row_values(rows, ["label", *(["choices"] if listed else [])])):
        label = json.loads(kept) if kept else None
        try:
            found.append(_of_choices(label, json.loads(some[0])) if listed else [_whole(label)])
        except ValueError as error:
            faults.append(Fault(f"{rows[number]['file']}:{rows[number]['line']}", str(error)))
    if faults:
        more = f", {SHOWN} shown" if len(faults) > SHOWN else ""
        last = Fault(f"data.{split}", f"{len(faults)} of {len(rows)} labels can't be used{more}", "",
                     "data.columns.label is how relevant a candidate is: 0 and 1, or grades")  # fmt: skip
        raise DataError(*faults[:SHOWN], last)
    return found


def _whole(label: Any) -> int:
    try:
        value = float(label)
    except (TypeError, ValueError):
        raise ValueError(f"label {label!r} says not how relevant the candidate is: 0, 1 or a grade is needed") from None
    if not value.is_integer() or value < 0 or value > 30:
        raise ValueError(f"label {label!r} is no grade: a whole number from 0 to 30 is needed")
    return int(value)


def _of_choices(label: Any, choices: list[str]) -> list[int]:
    if isinstance(label, list):
        if len(label) != len(choices):
            raise ValueError(f"{len(label)} labels for {len(choices)} candidates")
        return [_whole(one) for one in label]
    if label in choices:
        best = choices.index(label)
    else:
        try:
            best = int(label)
        except ValueError:
            raise ValueError(f"label {label!r} is none of the candidates and no number of one") from None
        if not 0 <= best < len(choices):
            raise ValueError(f"label {label}, but the candidates are numbered 0 to {len(choices) - 1}")
    return [int(place == best) for place in range(len(choices))]


def groups_of(columns: Mapping[str, Sequence[Any]]) -> Sequence[str]:
    """What says which rows belong together: the group's name, else the text."""
    texts = columns["text"]
    return [text if name is None else name for text, name in zip(texts, columns.get("group") or [None] * len(texts))]


def encode_pairs(
    tokenizer: Any, candidates: Sequence[str], columns: Mapping[str, list[Any]], max_tokens: int | None
) -> dict[str, list[Any]]:
    """Each row's text with each of its candidates, a sequence for each pair.

    Args:
        candidates: those that `columns["drawn"]` numbers.
    """
    texts = columns["text"]
    listed, drawn = columns.get("choices"), columns.get(DRAWN)
    rows: list[list[str]] = []
    for number in range(len(texts)):
        if listed is not None and listed[number]:
            rows.append(json.loads(listed[number]))
        else:
            more = json.loads(drawn[number]) if drawn is not None else []
            rows.append([columns["text_pair"][number], *(candidates[place] for place in more)])
    made = encode_sequences(tokenizer, [[text] * len(some) for text, some in zip(texts, rows)], rows, max_tokens)
    return {key: made[key] for key in made if key != "cuts"} if listed is None and drawn is None else made

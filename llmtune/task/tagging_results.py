"""From kept numbers to entities with offsets, scores and the worst rows.

Legend: N words of a row.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from llmtune.data.tagging.rows import Words, gold_of, words_of
from llmtune.data.tagging.schemes import Entity, read_entities
from llmtune.scoring.predictions import Chunk, Predictions
from llmtune.scoring.tagging import EntityCounts, TagCounts

Scored = tuple[int, int, str, float]
"""an entity and the model's chance for it"""
DIGITS = 4


def found_in(task: Any, output: np.ndarray) -> list[Scored]:
    """The entities that a row's kept numbers say, in order.

    The score of an entity from tags is the mean chance of its words' tags. Spans that overlap are left to the likelier
    one, unless `task.nested`.
    """
    names = task.labels.names
    if not task.known.spans:
        tags = [names[int(tag)] for tag in output[:, 0]]
        entities = read_entities(tags, task.known.scheme)
        return [(start, end, kind, float(output[start:end, 1].mean())) for start, end, kind in entities]
    spans = [(int(start), int(start + size), names[int(kind)], float(p)) for start, size, kind, p in output]
    if not task.settings.nested:
        spans = _apart(spans)
    return sorted(spans)


def _apart(spans: list[Scored]) -> list[Scored]:
    kept: list[Scored] = []
    for one in sorted(spans, key=lambda span: (-span[3], span)):
        if all(one[1] <= other[0] or other[1] <= one[0] for other in kept):
            kept.append(one)
    return kept


def decode(task: Any, chunk: Chunk) -> list[dict[str, Any]]:
    """For each row `entities`: text, label, score, and where it is: `start` and `end` are characters of the text; of a
    row of words those of the words put together with blanks (none beside Chinese and its like), and then `first` and
    `last` are the numbers of its words from 0. Of plain tags: `tags`, and `words` with text, tag, score and place."""
    told = []
    for row, output in enumerate(chunk.outputs):
        words = words_of(chunk.columns, row, task.known.reading)
        if task.known.plain:
            told.append(_tagged(task, words, output))
            continue
        told.append({"entities": [_entity(words, entity) for entity in found_in(task, output)]})
    return told


def _entity(words: Words, entity: Scored) -> dict[str, Any]:
    first, stop, kind, score = entity
    start, end = words.offsets[first][0], words.offsets[stop - 1][1]
    told = {"text": words.text[start:end], "label": kind, "start": start, "end": end}
    return {**told, **({"first": first, "last": stop - 1} if words.given else {}), "score": round(score, DIGITS)}


def _tagged(task: Any, words: Words, output: np.ndarray) -> dict[str, Any]:
    tags = [task.labels.names[int(tag)] for tag in output[:, 0]]
    each = [
        {"text": words.text[start:end], "tag": tag, "start": start, "end": end, "score": round(float(chance), DIGITS)}
        for (start, end), tag, chance in zip(words.offsets, tags, output[:, 1])
    ]
    return {"tags": tags, "words": each}


def rows_of(task: Any, chunk: Chunk) -> Iterator[tuple[Any, Any]]:
    """Gold and prediction of each row: entities, or ids of tags."""
    for row, output in enumerate(chunk.outputs):
        words = words_of(chunk.columns, row, task.known.reading) if task.known.reading.by == "text" else None
        gold = gold_of(chunk.columns, row, words, task.known.reading)
        if task.known.plain:
            yield [task.labels.ids[tag] for tag in gold], output[:, 0].astype(int)
        else:
            yield gold, [entity[:3] for entity in found_in(task, output)]


def score(task: Any, predictions: Predictions) -> dict[str, float]:
    """The scores of all rows."""
    counts = _counts(task)
    for chunk in predictions.chunks():
        for gold, predicted in rows_of(task, chunk):
            counts.add(gold, predicted)
    return counts.scores()


def _counts(task: Any) -> Any:
    return TagCounts(task.labels.names) if task.known.plain else EntityCounts()


def judge(task: Any, predictions: Predictions, num_worst: int) -> dict[str, Any]:
    """`classes`: a table by type or tag; `most_confused`; `worst`: the rows with most mistakes."""
    counts = _counts(task)
    worst: list[tuple[int, int]] = []
    for chunk in predictions.chunks():
        for row, (gold, predicted) in enumerate(rows_of(task, chunk)):
            wrong = counts.add(gold, predicted)
            if wrong:
                (heapq.heappush if len(worst) < num_worst else heapq.heappushpop)(worst, (wrong, -chunk.start - row))
    rows = [-row for _, row in sorted(worst, reverse=True)]
    return {
        "classes": counts.table(), "most_confused": counts.most_confused(),
        "worst": _worst(task, predictions.some(rows)) if rows else [],
    }  # fmt: skip


def _worst(task: Any, chunk: Chunk) -> list[dict[str, Any]]:
    found = []
    for row, (gold, predicted) in enumerate(rows_of(task, chunk)):
        words = words_of(chunk.columns, row, task.known.reading)
        said = _tags_said if task.known.plain else _entities_said
        found.append({
            "file": chunk.columns["file"][row], "line": chunk.columns["line"][row],
            "gold": said(task, words, gold, predicted), "predicted": said(task, words, predicted, gold),
            "text": words.text,
        })  # fmt: skip
    return found


def _entities_said(task: Any, words: Words, these: Sequence[Entity], others: Sequence[Entity]) -> str:
    """Those that are not on both sides."""
    only = sorted(set(these) - set(others))
    said = [f"{words.text[words.offsets[a][0] : words.offsets[b - 1][1]]} [{kind}]" for a, b, kind in only]
    return "; ".join(said) or "nothing else"


def _tags_said(task: Any, words: Words, these: Sequence[int], others: Sequence[int]) -> str:
    names = task.labels.names
    each = zip(words.offsets, these, others)
    return " ".join(f"{words.text[a:b]}/{names[one]}" for (a, b), one, two in each if one != two)

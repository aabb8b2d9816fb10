"""Texts that were written, held against their references: scores with what they hang on, and the worst of them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

from llmtune.data.roles import TARGET
from llmtune.scoring.writing import WritingScores, row_scores
from llmtune.task.rewriting_rows import joined, references

NAMES = {"chrf": "chrF", "rougeL": "ROUGE-L"}


def score(task: Any, predictions: Any) -> dict[str, float]:
    """Of the rows for which something was written, read in chunks; token scores are of all rows."""
    settings = task.settings
    scores = WritingScores(settings.scores, settings.bleu_tokenizer, settings.rouge_stemmer)
    rows = unfinished = 0
    for chunk in predictions.chunks():
        beside = list(_beside_gold(task, chunk))
        scores.add([text for _, text, _, _ in beside], [golds for _, _, _, golds in beside])
        rows, unfinished = rows + len(beside), unfinished + sum(cut for _, _, cut, _ in beside)
    task.signatures = scores.signatures()
    found = {**task.writing.token_scores(predictions), **scores.scores()}
    return {**found, "unfinished": unfinished / rows} if rows else found


def _beside_gold(task: Any, chunk: Any) -> Iterator[tuple[int, str, bool, list[str]]]:
    """(place in the chunk, what was written, was it cut off?, references) of the rows with something written."""
    for place, (written, kept) in enumerate(zip(task.written(chunk), chunk.columns[TARGET.kept])):
        if written is not None:
            yield place, *written, references(kept)


def judge(task: Any, predictions: Any, num_worst: int) -> dict[str, Any]:
    """`worst`: rows least like their nearest reference by chrF, or ROUGE-L where that is the task's kind of score; and
    a table of what the scores hang on."""
    name = "chrf" if not task.settings.scores or {"bleu", "chrf", "ter"} & set(task.settings.scores) else "rougeL"
    ranked: list[tuple[float, int]] = []
    for chunk in predictions.chunks():
        beside = list(_beside_gold(task, chunk))
        near = row_scores(name, [text for _, text, _, _ in beside], [golds for *_, golds in beside])
        ranked += [(value, chunk.start + place) for value, (place, *_) in zip(near, beside)]
        ranked = heapq.nsmallest(num_worst, ranked)
    worst = _worst(task, predictions, name, ranked)
    report: dict[str, Any] = {"worst": worst, "worst_are": f"least like their references, by {NAMES[name]}:"}
    if task.signatures:
        rows = [[score, signature] for score, signature in task.signatures.items()]
        report |= {"signatures": task.signatures, "tables": [{"columns": ["score", "signature"], "rows": rows}]}
    return report


def _worst(task: Any, predictions: Any, name: str, ranked: list[tuple[float, int]]) -> list[dict[str, Any]]:
    if not ranked:
        return []
    chunk = predictions.some([row for _, row in ranked])
    return [
        {
            "file": chunk.columns["file"][place], "line": chunk.columns["line"][place], "gold": golds,
            "predicted": text, "alike": f"{NAMES[name]} {value:.1f}", "source": joined(chunk.columns["source"][place]),
        }
        for (place, text, _, golds), (value, _) in zip(_beside_gold(task, chunk), ranked)
    ]  # fmt: skip

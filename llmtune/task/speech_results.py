"""What transcripts are worth: error rates, the words that are taken for others, the worst rows."""

from __future__ import annotations

import heapq
from typing import Any

from llmtune.scoring.transcripts import TranscriptScores

SHOWN_PAIRS = 12


def _scored(task: Any, chunk: Any, sums: TranscriptScores) -> list[tuple[int, int, int]]:
    """(-wrong words, -words said, number of the row) of each row of a chunk that was written down."""
    texts = [told["transcript"] for told in task.decode(chunk)]
    done = [row for row, text in enumerate(texts) if text is not None]
    edits = sums.add([chunk.columns["transcript"][row] for row in done], [texts[row] for row in done])
    return [(-one.wrong, -one.said, chunk.start + row) for one, row in zip(edits, done) if one.wrong]


def score(task: Any, predictions: Any) -> dict[str, float]:
    """Error rates as sums over rows, so that a long recording counts for more; of Whisper also perplexity."""
    sums = TranscriptScores(task.normaliser)
    for chunk in predictions.chunks():
        _scored(task, chunk, sums)
    tokens = task.writing.token_scores(predictions) if task.hearing.writes else {}
    return {**sums.scores(), **tokens}


def judge(task: Any, predictions: Any, num_worst: int) -> dict[str, Any]:
    """`tables`: what was most often taken for what; `worst`: the rows with the most wrong words."""
    sums = TranscriptScores(task.normaliser)
    worst: list[tuple[int, int, int]] = []
    for chunk in predictions.chunks():
        worst = heapq.nsmallest(num_worst, [*worst, *_scored(task, chunk, sums)])
    pairs = [[said, text, times] for (said, text), times in sums.confused.most_common(SHOWN_PAIRS)]
    tables = [{"columns": ["said", "written", "times"], "rows": pairs}] if pairs else []
    return {"tables": tables, "worst": _facts(task, predictions, [row for _, _, row in worst])}


def _facts(task: Any, predictions: Any, rows: list[int]) -> list[dict[str, Any]]:
    if not rows:
        return []
    chunk = predictions.some(rows)
    return [
        {"file": chunk.columns["file"][place], "line": chunk.columns["line"][place],
         "gold": chunk.columns["transcript"][place], "predicted": told["transcript"],
         "audio": chunk.columns["audio"][place]}
        for place, told in enumerate(task.decode(chunk))
    ]  # fmt: skip

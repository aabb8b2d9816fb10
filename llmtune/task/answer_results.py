"""Answers read out of spans, scored and judged.

Legend: N questions, K spans.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from llmtune.data.forms.answer_places import read_answers
from llmtune.task.answer_windows import WindowEncoder

RIGHT, OVERLAPS, ELSEWHERE = "right", "overlaps with a gold answer", "stands elsewhere"
WITHHELD, INVENTED = "none given, there is one", "given, there is none"
KINDS = (RIGHT, OVERLAPS, ELSEWHERE, WITHHELD, INVENTED)
NONE = "(none)"
NO_SPAN = -1e4
"""score of the best span where a text has none"""


def decoded(encoder: WindowEncoder, chunk: Any, limit: float) -> Iterator[dict[str, Any]]:
    """Of each row `answer`, `start`, `end` (characters; None without an answer), `probability`,
    `no_answer_probability`, `no_answer_score` (that of "no answer" minus that of the best span) and `n_best`.

    Probabilities are a softmax over the spans kept, and over "no answer" where that may be given.
    """  # fmt: skip
    contexts = chunk.columns["context"]
    for context, offsets, spans_K3 in zip(
        contexts, encoder.offsets(chunk.columns["question"], contexts), chunk.outputs
    ):
        yield _read_out(context, offsets, np.asarray(spans_K3, dtype=np.float64), limit)


def _read_out(context: str, offsets: list[tuple[int, int]], spans_K3: np.ndarray, limit: float) -> dict[str, Any]:
    null = float(spans_K3[0, 0])
    spans: list[tuple[float, int, int]] = []
    for score, first, last in spans_K3[1:].tolist():
        start, end = _trimmed(context, offsets[int(first)][0], offsets[int(last)][1])
        if start < end and all((start, end) != span[1:] for span in spans):
            spans.append((score, start, end))
    difference = null - (spans[0][0] if spans else NO_SPAN)
    chances = _softmax([score for score, *_ in spans] + ([] if math.isinf(limit) and spans else [null]))
    answers = [
        {"text": context[start:end], "start": start, "end": end, "score": score, "probability": chances[place]}
        for place, (score, start, end) in enumerate(spans)
    ]
    null_chance = chances[len(spans)] if len(chances) > len(spans) else 0.0
    given: dict[str, Any] = {"text": "", "start": None, "end": None, "probability": null_chance}
    if answers and difference <= limit:
        given = answers[0]
    return {
        "answer": given["text"], "start": given["start"], "end": given["end"], "probability": given["probability"],
        "no_answer_probability": null_chance, "no_answer_score": difference, "n_best": answers,
    }  # fmt: skip


def _trimmed(context: str, start: int, end: int) -> tuple[int, int]:
    """Without blanks at its ends, which some tokenizers count to a word."""
    text = context[start:end]
    return start + len(text) - len(text.lstrip()), end - (len(text) - len(text.rstrip()))


def _softmax(scores: list[float]) -> list[float]:
    most = max(scores)
    weights = [math.exp(score - most) for score in scores]
    return [weight / sum(weights) for weight in weights]


def score(task: Any, predictions: Any) -> dict[str, float]:
    """Scores of all questions, read in chunks."""
    from llmtune.scoring.answers import AnswerScores

    scores = AnswerScores()
    for chunk in predictions.chunks():
        for golds, found in _beside_gold(task, chunk):
            best = found["n_best"][0]["text"] if found["n_best"] else ""
            scores.add(best, golds, found["no_answer_score"])
    return scores.scores(task.limit)


def gold_texts(chunk: Any) -> list[list[str]]:
    return [
        read_answers(answers, context).texts
        for answers, context in zip(chunk.columns["answers"], chunk.columns["context"])
    ]


def judge(task: Any, predictions: Any, num_worst: int) -> dict[str, Any]:
    """`worst`: the wrong answers, those with the least overlap and of these the surest first; and counts by kind."""
    counts: Counter[str] = Counter()
    ranked: list[tuple[float, float, int]] = []
    for chunk in predictions.chunks():
        for number, (golds, found) in enumerate(_beside_gold(task, chunk), chunk.start):
            kind, f1 = _kind(found["answer"], golds)
            counts[kind] += 1
            if kind != RIGHT:
                ranked.append((f1, -found["probability"], number))
        ranked = heapq.nsmallest(num_worst, ranked)
    rows = [[kind, counts[kind], counts[kind] / max(1, len(predictions))] for kind in KINDS if counts[kind]]
    return {
        "tables": [{"columns": ["answers", "rows", "share"], "rows": rows}],
        "worst": _worst(task, predictions, [number for *_, number in ranked]),
    }


def _beside_gold(task: Any, chunk: Any) -> Iterator[tuple[list[str], dict[str, Any]]]:
    return zip(gold_texts(chunk), decoded(task.encoder_in_use, chunk, task.limit))


def _kind(answer: str, golds: list[str]) -> tuple[str, float]:
    """What an answer is, and its F1."""
    from llmtune.scoring.answer_text import best_of

    exact, f1 = best_of(answer, golds)
    if exact:
        return RIGHT, f1
    if not golds:
        return INVENTED, f1
    if not answer:
        return WITHHELD, f1
    return (OVERLAPS if f1 else ELSEWHERE), f1


def _worst(task: Any, predictions: Any, rows: list[int]) -> list[dict[str, Any]]:
    if not rows:
        return []
    chunk = predictions.some(rows)
    worst = []
    for place, (golds, found) in enumerate(_beside_gold(task, chunk)):
        known = {name: chunk.columns[name][place] for name in ("file", "line", "question", "context")}
        worst.append({
            "file": known["file"], "line": known["line"], "gold": golds or NONE, "predicted": found["answer"] or NONE,
            "probability": found["probability"], "mistake": _kind(found["answer"], golds)[0],
            "question": known["question"], "context": known["context"],
        })  # fmt: skip
    return worst

"""What a model said in dialogues: scores, what `predict` tells, and the answers that went most wrong."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from llmtune.data.forms.conversation import Conversation, Message
from llmtune.scoring.maths import final_number
from llmtune.scoring.tool_calls import Written, read_calls, same_calls, same_names
from llmtune.task.dialogue_rows import answered_turn, conversations

if TYPE_CHECKING:
    from llmtune.scoring.predictions import Chunk, Predictions

SCORES: dict[str, tuple[str, ...]] = {
    "none": (), "text": ("exact_match",), "number": ("exact_match",),
    "calls": ("exact_match", "name_match", "readable_calls"),
}  # fmt: skip
"""by what `task.exact` compares: the scores that it gives"""
FIELDS: dict[str, tuple[str, ...]] = {"none": (), "text": (), "number": ("number",), "calls": ("tool_calls",)}
"""by the same: what `predict` tells besides the response"""

EXAMPLES = 3


class Answer(NamedTuple):
    place: int
    """in its chunk"""
    text: str
    is_cut: bool
    gold: Message
    asked: Conversation
    """what stands before it"""


def score(task: Any, predictions: Predictions) -> dict[str, float]:
    """Shares of the rows that were answered; token scores are of all rows."""
    names = SCORES[task.settings.exact]
    sums, rows, unfinished, called = dict.fromkeys(names, 0), 0, 0, 0
    for chunk in predictions.chunks():
        for answer in _answers(task, chunk):
            rows, unfinished = rows + 1, unfinished + answer.is_cut
            found = _compared(task.settings.exact, answer)
            called += "readable_calls" in found
            for name, right in found.items():
                sums[name] += right
    told: dict[str, float] = task.writing.token_scores(predictions)
    if not rows:
        return told
    over = {"readable_calls": called}
    shares = {name: sums[name] / over.get(name, rows) for name in names if over.get(name, rows)}
    return {**told, **shares, "unfinished": unfinished / rows}


def _compared(exact: str, answer: Answer) -> dict[str, bool]:
    """What is right in an answer; `readable_calls` only where there is a call, or what was to be one."""
    if exact == "calls":
        written, gold = read_calls(answer.text), answer.gold.get("tool_calls", [])
        right = same_calls(gold, written.calls) and not written.is_broken
        told = {"exact_match": right, "name_match": same_names(gold, written.calls) and not written.is_broken}
        return {**told, **({"readable_calls": not written.is_broken} if written.calls or written.is_broken else {})}
    if exact == "number":
        number = final_number(answer.text)
        return {"exact_match": number is not None and number == final_number(answer.gold["content"])}
    return {"exact_match": answer.text.strip() == answer.gold["content"].strip()} if exact == "text" else {}


def _answers(task: Any, chunk: Chunk) -> Iterator[Answer]:
    """The rows of a chunk for which something was written, beside their gold."""
    for place, (written, one) in enumerate(zip(task.written(chunk), conversations(chunk.columns))):
        turn = answered_turn(one.messages, task.settings.answered)
        if written is not None and turn < len(one.messages):
            text, is_cut = written
            yield Answer(place, text, is_cut, one.messages[turn], one._replace(messages=one.messages[:turn]))


def decoded(task: Any, chunk: Chunk) -> list[dict[str, Any]]:
    """For each row `response`, `cut`, what `exact` adds, and `messages`: the dialogue with what was written."""
    told = []
    for written, one in zip(task.written(chunk), conversations(chunk.columns)):
        if written is None:
            told.append(dict.fromkeys(task.fields))
            continue
        text, is_cut = written
        message: Message = {"role": "assistant", "content": text}
        found: dict[str, Any] = {"response": text, "cut": is_cut}
        if task.settings.exact == "calls":
            read: Written = read_calls(text)
            message |= {"content": read.content, **({"tool_calls": read.calls} if read.calls else {})}
            found |= {"response": read.content, "tool_calls": read.calls}
        elif task.settings.exact == "number":
            found["number"] = final_number(text)
        asked = one.messages[: answered_turn(one.messages, task.settings.answered)]
        found["messages"] = [*asked, message]
        told.append({name: found[name] for name in task.fields})
    return told


def judge(task: Any, predictions: Predictions, num_worst: int) -> dict[str, Any]:
    """`worst`: rows whose known answer surprised most, per token; where answers are compared, those that are wrong.
    `examples`: a few rows spread over all."""
    exact, ranked = task.settings.exact, []
    for chunk in predictions.chunks():
        for answer in _answers(task, chunk):
            if _compared(exact, answer).get("exact_match", False):
                continue
            total, tokens = chunk.outputs[answer.place][:2].tolist()
            ranked.append((total / max(1.0, tokens), -(chunk.start + answer.place)))
        ranked = heapq.nlargest(num_worst, ranked)
    spread = sorted({place * (len(predictions) - 1) // max(1, EXAMPLES - 1) for place in range(EXAMPLES)})
    return {
        "examples": _told(task, predictions, spread),
        "worst": [
            {**one, "loss": round(loss, 4)}
            for one, (loss, _) in zip(_told(task, predictions, [-row for _, row in ranked]), ranked)
        ],
    }


def _told(task: Any, predictions: Predictions, rows: list[int]) -> list[dict[str, Any]]:
    if not rows:
        return []
    chunk = predictions.some(rows)
    return [
        {
            "file": chunk.columns["file"][answer.place], "line": chunk.columns["line"][answer.place],
            "gold": said(answer.gold), "predicted": answer.text, "asked": said(answer.asked.messages[-1]),
        }
        for answer in _answers(task, chunk)
    ]  # fmt: skip


def said(message: Message) -> str:
    """A turn as one text, its calls of tools as JSON behind it."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join([*([message["content"]] if message["content"] else []), *calls])


def words_of(one: Conversation) -> str:
    """All that a dialogue holds, as one text."""
    tools = [json.dumps(tool["function"], ensure_ascii=False) for tool in one.tools or ()]
    return "\n".join([*tools, *map(said, one.messages)])

"""Dialogues as rows of tokens for a decoder, of which the assistant's turns are to be learnt."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llmtune.core.errors import DataError, Fault
from llmtune.data.forms.conversation import Conversation, Message, conversation_of
from llmtune.data.forms.values import BadValue
from llmtune.data.tokens.answer_rows import SHOWN_ROWS, BadRows, Piece, columns_of, decoder_row, prompt_row
from llmtune.data.tokens.chat_template import ChatTemplate
from llmtune.scoring.maths import final_number

ROLES = ("messages", "prompt", "response", "context", "system", "tools")
PLACEHOLDER = re.compile(r"\{\{\s*\w+\s*\}\}")
SHOWN_CHARS = 1500
"""of the printed example"""
LEARNT, NOT_LEARNT = "\u27e6", "\u27e7"
"""stand before and behind what is learnt"""
Make = Callable[[Conversation, int], "dict[str, list[int]]"]
"""the row of a dialogue, and the number of the turn that the model is to write"""


def conversations(columns: Mapping[str, Sequence[Any]], *, answered: bool = False) -> list[Conversation]:
    """The dialogues of some rows. Raises BadRows with what is wrong."""
    return _each(_values(columns), lambda values: conversation_of(values, answered=answered))


def answered_turn(messages: Sequence[Message], answered: str) -> int:
    """Number of the message that the model is to write: the assistant's last, or with `call` the last that calls a
    tool, if any does. Where the dialogue does not end with the assistant, it is the one to come."""
    if messages[-1]["role"] != "assistant":
        return len(messages)
    calls = [number for number, message in enumerate(messages) if message.get("tool_calls")]
    return calls[-1] if answered == "call" and calls else len(messages) - 1


class DialogueEncoder:
    """`encode(columns, max_tokens)`: rows of a decoder (data.tokens.answer_rows); where a dialogue has no answer yet,
    all rows are what is asked alone.

    A dialogue that is too long loses its oldest turns but the system's, never the exchange of the turn that the model
    is to write; then what follows that turn, then the end of what the user says before it.
    """

    keeps_answers = True

    def __init__(self, template: ChatTemplate, *, turns: str, answered: str, room: Callable[[int], int]):
        """`room`: of so many tokens of a row those that stay free for what is written, however short its known answer
        is: what a dialogue loses must not tell how long that is."""
        self.template, self.turns, self.answered, self.room = template, turns, answered, room
        self._example: list[str] = []

    def __call__(self, columns: Mapping[str, Sequence[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
        found = conversations(columns)
        known = all(one.messages[-1]["role"] == "assistant" for one in found)
        make = self._learnt if known else self._asked
        return columns_of(_each(found, lambda one: self._fitting(make, one, max_tokens)))

    def told(self) -> list[str]:
        """What to say of the rows encoded since this was last asked for."""
        count, self.template.num_joined = self.template.num_joined, 0
        said = "dialogue(s) with an answer that begins with what grows together with the template before it"
        return [f"{count:,} {said}: tokenised apart, as when it is asked for"] if count else []

    def example(self) -> list[str]:
        """The first row of these, what is learnt of it between marks."""
        found, self._example = self._example, []
        return found

    def _learnt(self, one: Conversation, turn: int) -> dict[str, list[int]]:
        """A row whose answers are known. Raises BadValue where it does not begin as its answer is asked for."""
        pieces = self.template.pieces(*one, turns=self.turns)
        row = decoder_row(pieces)
        if not row["target"]:
            return row
        asked = self.template.prompt(one.messages[:turn], one.tools, turns=self.turns)
        if row["input_ids"][: len(asked)] != asked:
            raise BadValue(f"the chat template writes what stands before turn {turn + 1} otherwise once more follows")
        row["asked"] = [len(asked)]
        self._example = self._example or [marked(self.template.tokenizer, pieces)]
        return row

    def _asked(self, one: Conversation, turn: int) -> dict[str, list[int]]:
        """What the next answer is asked by; of a dialogue that has it already, what it was asked by."""
        return prompt_row(self.template.prompt(one.messages[:turn], one.tools, turns=self.turns))

    def _fitting(self, make: Make, one: Conversation, max_tokens: int | None) -> dict[str, list[int]]:
        turn = answered_turn(one.messages, self.answered)
        row = make(one, turn)
        if max_tokens is None or len(row["input_ids"]) <= max_tokens:
            return row
        for free in (self.room(max_tokens), 0):  # all that is free may be taken by tools or a system text
            row = self._shortened(make, one, turn, max_tokens, free)
            if _fits(row, max_tokens, 0):
                return row
        return row if "wanted" in row else prompt_row(row["input_ids"][-max_tokens:])

    def _shortened(
        self, make: Make, one: Conversation, turn: int, max_tokens: int, free: int
    ) -> dict[str, list[int]]:
        """The row with as much of the dialogue as there is room for, or the shortest that there is."""
        row = make(one, turn)
        with contextlib.suppress(BadValue):  # the template takes the whole dialogue, and may not take a part of it
            for messages, place in _shorter(one.messages, turn):
                one, turn = one._replace(messages=messages), place
                row = make(one, turn)
                if _fits(row, max_tokens, free):
                    return row
            row = self._with_less_asked(make, one, turn, max_tokens, free) or row
        return row

    def _with_less_asked(
        self, make: Make, one: Conversation, turn: int, max_tokens: int, free: int
    ) -> dict[str, list[int]] | None:
        """The row with so much of the last user's text as there is room for; None where not even a word has any."""
        place = max(number for number, message in enumerate(one.messages) if message["role"] == "user")
        text, best, low, high = one.messages[place]["content"], None, 1, len(one.messages[place]["content"])
        while low < high:
            middle = (low + high) // 2
            cut = text[:middle]
            messages = [*one.messages[:place], {"role": "user", "content": cut}, *one.messages[place + 1 :]]
            row = make(one._replace(messages=messages), turn) if cut.strip() else None
            if row is None or _fits(row, max_tokens, free):
                best, low = row or best, middle + 1
            else:
                high = middle
        return best


def _fits(row: dict[str, list[int]], max_tokens: int, free: int) -> bool:
    """Is it short enough, and are `free` tokens left behind what a known answer is asked by?"""
    asked = row["asked"][0] + free if "wanted" in row else 0
    return max(len(row["input_ids"]), asked) <= max_tokens


def _shorter(messages: Sequence[Message], turn: int) -> Iterator[tuple[list[Message], int]]:
    """The dialogue without its oldest exchange, without its two oldest, ... down to the one that holds `turn`, at last
    without what follows that; each with the new number of the turn."""
    head = [message for message in messages[:1] if message["role"] == "system"]
    starts = [number for number, message in enumerate(messages[:turn]) if message["role"] == "user"]
    for start in starts[1:]:
        yield [*head, *messages[start:]], len(head) + turn - start
    if turn + 1 < len(messages):
        last = starts[-1] if starts else len(head)
        yield [*head, *messages[last : turn + 1]], len(head) + turn - last


def _values(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    names = [name for name in ROLES if name in columns]
    return [dict(zip(names, row)) for row in zip(*(columns[name] for name in names))]


def _each(items: Sequence[Any], make: Callable[[Any], Any]) -> list[Any]:
    """What is made of each; what is wrong with some of them in one error."""
    found, wrong = [], {}
    for number, item in enumerate(items):
        try:
            found.append(make(item))
        except BadValue as bad:
            wrong[number] = str(bad)
    if wrong:
        raise BadRows(wrong)
    return found


def marked(tokenizer: Any, pieces: Sequence[Piece]) -> str:
    """The text of a row, what is learnt of it between marks."""
    shown = []
    for ids, is_learnt in pieces:
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        most = max(80, SHOWN_CHARS // len(pieces))
        text = text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
        shown.append(f"{LEARNT}{text}{NOT_LEARNT}" if is_learnt else text)
    return "".join(shown)


def look_through(raw: Any, exact: str) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Counts by split, and what looks like a mistake in the rows.

    Raises:
        DataError: rows without what `exact` (the task's setting) compares, by file and line.
    """
    report, warnings, faults = {}, [], []
    for split, rows in raw.splits.items():
        counts: Counter[str] = Counter()
        for batch in rows.iter(1000):
            for number, one in enumerate(conversations(batch)):
                place = f"{batch['file'][number]}:{batch['line'][number]}"
                texts = [message["content"] for message in one.messages]
                spoken = [message for message in one.messages if message["role"] == "assistant"]
                counts["turns of the assistant"] += len(spoken)
                counts["calls of tools"] += sum(len(message.get("tool_calls", ())) for message in spoken)
                counts["system texts"] += one.messages[0]["role"] == "system"
                for found in PLACEHOLDER.findall(" ".join(texts)):
                    counts["placeholder"] += 1
                    warnings += [f"{split}: {found} stands in rows, as at {place}: replace it, else the model will say "
                                 "it"] * (counts["placeholder"] == 1)  # fmt: skip
                if exact == "number" and spoken and final_number(spoken[-1]["content"]) is None:
                    faults.append(Fault(place, "the answer names no number", "task.exact=number compares the last one"))
        if exact == "calls" and not counts["calls of tools"]:
            faults.append(Fault(f"data.{split}", "no row calls a tool, and task.exact=calls compares calls", "",
                                "type task=chat"))  # fmt: skip
        del counts["placeholder"]
        report[split] = {"counts": {name: count for name, count in counts.items() if count}}
    if faults:
        raise DataError(*faults[:SHOWN_ROWS])
    return report, warnings

"""Rows of preferences as tokens: each answer behind its prompt is a sequence of its own, and only its words count."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from llmtune.core.seeds import generator
from llmtune.data.files.arrow_files import row_values
from llmtune.data.forms.conversation import Message
from llmtune.data.forms.preference_rows import Preference, preference_of
from llmtune.data.forms.values import BadValue
from llmtune.data.tokens.answer_rows import BadRows, columns_of, decoder_row
from llmtune.data.tokens.chat_template import ChatTemplate, Tools
from llmtune.task.dialogue_rows import marked

CHOSEN, REJECTED, WANTED, UNWANTED, MISMATCHED, UNKNOWN = range(6)
"""what a sequence is: of a pair the one and the other; an answer judged by itself; an answer to another prompt; one of
which nothing is known"""
GOOD, BAD = (CHOSEN, WANTED), (REJECTED, UNWANTED)
VERDICT, OTHER = "verdict", "other"
"""columns that are put beside a row: what its label says, and an answer of another row, as JSON"""
TRIED = 50
"""rows that are looked at for an answer to another prompt"""
HELD = 1000
"""rows that are read at a time"""
KIND, KEY = "kind", "key"
"""numbers that the encoder tells of each sequence: what it is, and 64 bits by which it is known again"""


class PreferenceEncoder:
    """Columns of rows, as they are kept, to the sequences of each: prompt and answer, by the model's chat template.

    What is too long loses the prompt's oldest turns but the system's, for all answers of a row alike, then the end of
    what its last user says.
    """

    keeps_answers = True

    def __init__(self, template: ChatTemplate, *, trained: bool = False):
        """`trained`: a trained model is asked, and an answer that is longer than it can read loses its end."""
        self.template, self.trained = template, trained
        self._example: list[str] = []

    def __call__(self, columns: Mapping[str, list[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
        return columns_of(rows_of(columns, lambda values: self._row(values, max_tokens)))

    def told(self) -> list[str]:
        """What to say of the rows encoded since this was last asked for."""
        count, self.template.num_joined = self.template.num_joined, 0
        said = "answer(s) whose beginning grows together with the template before it"
        return [f"{count:,} {said}: tokenised apart, as when it is asked for"] if count else []

    def example(self) -> list[str]:
        """The first answer of these rows, what is learnt of it between marks."""
        found, self._example = self._example, []
        return found

    def _row(self, values: Mapping[str, Any], max_tokens: int | None) -> dict[str, list[int]]:
        found = preference_of({name: value for name, value in values.items() if name != "label"})
        kinds = [CHOSEN, REJECTED]
        if len(found.answers) == 1:
            verdict = json.loads(values.get(VERDICT) or "null")
            kinds = [UNKNOWN if verdict is None else WANTED if verdict else UNWANTED]
        sequences = self._fitting(found, found.answers, max_tokens)
        if max_tokens and self.trained:
            sequences = [_without_last(one, max_tokens) for one in sequences]
        other = json.loads(values.get(OTHER) or "null")
        if other is not None:  # it has no say in how much of the prompt is kept, and may lose its own end
            sequences.append(_without_last(self._fitting(found, [other], max_tokens)[0], max_tokens))
            kinds = [*kinds, MISMATCHED]
        row = {name: list(chain.from_iterable(one[name] for one in sequences))
               for name in ("input_ids", "wanted", "target")}  # fmt: skip
        return {
            **row, "cuts": [len(one["input_ids"]) for one in sequences], KIND: kinds,
            KEY: list(chain.from_iterable(key_of(one["input_ids"], one["wanted"]) for one in sequences)),
        }  # fmt: skip

    def _fitting(
        self, found: Preference, answers: Sequence[list[Message]], max_tokens: int | None
    ) -> list[dict[str, list[int]]]:
        """A sequence for each answer, of at most `max_tokens` if the answers leave room."""
        def made(prompt: Sequence[Message]) -> list[dict[str, list[int]]]:
            return [self._sequence(prompt, answer, found.tools) for answer in answers]

        sequences, prompt = made(found.prompt), found.prompt
        if not max_tokens or fits(sequences, max_tokens):
            return sequences
        with contextlib.suppress(BadValue):  # the template takes the whole dialogue, and may not take a part of it
            for prompt in shorter(found.prompt):
                sequences = made(prompt)
                if fits(sequences, max_tokens):
                    return sequences
            return _with_less_asked(made, prompt, max_tokens) or sequences
        return sequences

    def _sequence(self, prompt: Sequence[Message], answer: Sequence[Message], tools: Tools) -> dict[str, list[int]]:
        said = [{**message, "weight": 0} if message["role"] == "assistant" else message for message in prompt]
        pieces = self.template.pieces([*said, *answer], tools, turns="last" if len(answer) == 1 else "all")
        if not self._example:
            self._example = [marked(self.template.tokenizer, pieces)]
        return decoder_row(pieces)


def rows_of(columns: Mapping[str, Sequence[Any]], make: Callable[[dict[str, Any]], Any]) -> list[Any]:
    """What `make` makes of each row. Raises BadRows with what is wrong."""
    names, found, wrong = list(columns), [], {}
    for number, row in enumerate(zip(*columns.values())):
        try:
            found.append(make(dict(zip(names, row))))
        except BadValue as bad:
            wrong[number] = str(bad)
    if wrong:
        raise BadRows(wrong)
    return found


def fits(sequences: Sequence[Mapping[str, Sequence[int]]], max_tokens: int) -> bool:
    """Is the longest sequence of a row short enough?"""
    return max(len(one["input_ids"]) for one in sequences) <= max_tokens


def _with_less_asked(
    made: Callable[[Sequence[Message]], list[dict[str, list[int]]]], prompt: Sequence[Message], max_tokens: int
) -> list[dict[str, list[int]]] | None:
    """The sequences with so much of the last user's text as there is room for; None where not even a word has any."""
    place = max(number for number, message in enumerate(prompt) if message["role"] == "user")
    text, best, low, high = prompt[place]["content"], None, 1, len(prompt[place]["content"])
    while low < high:
        middle = (low + high) // 2
        cut = {"role": "user", "content": text[:middle]}
        sequences = made([*prompt[:place], cut, *prompt[place + 1 :]]) if text[:middle].strip() else None
        if sequences is None or fits(sequences, max_tokens):
            best, low = sequences or best, middle + 1
        else:
            high = middle
    return best


def shorter(prompt: Sequence[Message]) -> list[list[Message]]:
    """The prompt without its first turns up to the next one of the user, and so on; a system text stays."""
    told = [message for message in prompt if message["role"] == "system"]
    asked = [place for place, message in enumerate(prompt) if message["role"] == "user"]
    return [[*told, *prompt[place:]] for place in asked[1:]]


def _without_last(sequence: dict[str, list[int]], max_tokens: int | None) -> dict[str, list[int]]:
    """At most `max_tokens` of it, from the beginning."""
    if not max_tokens or len(sequence["input_ids"]) <= max_tokens:
        return sequence
    wanted = [*sequence["wanted"][: max_tokens - 1], 0]
    ids, target = sequence["input_ids"][:max_tokens], sequence["target"][: sum(wanted)]
    return {**sequence, "input_ids": ids, "wanted": wanted, "target": target}


def key_of(ids: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Two numbers of 32 bits that stand for a sequence and which of its tokens count."""
    text = json.dumps([list(ids), wanted.index(1) if 1 in wanted else -1]).encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return [int.from_bytes(digest[at : at + 4], "little", signed=True) for at in (0, 4)]


def preferences(rows: Any) -> Iterator[Preference]:
    """What each row of a split says; a thousand rows are held at a time."""
    names = [name for name in rows.column_names if name not in ("file", "line")]
    return (preference_of(dict(zip(names, values))) for values in row_values(rows, names))


def prompt_key(prompt: Sequence[Message]) -> int:
    """64 bits by which a prompt is known again."""
    text = json.dumps(prompt, sort_keys=True, ensure_ascii=False)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def mismatched(prompts: Sequence[int]) -> list[int | None]:
    """For each row, of which `prompt_key` is given, another one that has another prompt, as KTO's zero asks for; None
    where none of TRIED rows has. Which one is drawn hangs on the number of rows alone."""
    order = generator(0, "mismatched", len(prompts)).permutation(len(prompts)).tolist()
    drawn: list[int | None] = [None] * len(prompts)
    for place, row in enumerate(order):
        for step in range(1, min(len(order), TRIED + 1)):
            other = order[(place + step) % len(order)]
            if prompts[other] != prompts[row]:
                drawn[row] = other
                break
    return drawn


def first_answers(rows: Any, numbers: Sequence[int | None]) -> Iterator[list[Message] | None]:
    """The first answer of each of these rows of a split, None for None; a thousand are held at a time."""
    for start in range(0, len(numbers), HELD):
        part = numbers[start : start + HELD]
        found = preferences(rows.select([number for number in part if number is not None]))
        yield from (None if number is None else next(found).answers[0] for number in part)


def said(columns: Mapping[str, list[Any]]) -> list[str]:
    """All that is said in each row, as one text."""
    def together(values: dict[str, Any]) -> str:
        one = preference_of({name: value for name, value in values.items() if name != "label"})
        return "\n".join(turn["content"] for turn in chain(one.prompt, *one.answers) if turn["content"])

    return rows_of(columns, together)

"""Rows of preferences as tokens: each answer behind its prompt is a sequence of its own, and only its words count."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from llmtune.core.seeds import generator
from llmtune.data.answer_rows import columns_of, decoder_row
from llmtune.data.arrow_files import row_values
from llmtune.data.chat_template import ChatTemplate, Tools
from llmtune.data.conversation import Message
from llmtune.data.preference_rows import Preference, preference_of

CHOSEN, REJECTED, WANTED, UNWANTED, MISMATCHED, UNKNOWN = range(6)
"""what a sequence is: of a pair the one and the other; an answer judged by itself; an answer to another prompt; one of
which nothing is known"""
GOOD, BAD = (CHOSEN, WANTED), (REJECTED, UNWANTED)
VERDICT, OTHER = "verdict", "other"
"""columns that are put beside a row: what its label says, and an answer of another row, as JSON"""
KIND, KEY = "kind", "key"
"""numbers that the encoder tells of each sequence: what it is, and 64 bits by which it is known again"""


class PreferenceEncoder:
    """Columns of rows, as they are kept, to the sequences of each: prompt and answer, by the model's chat template."""

    keeps_answers = True

    def __init__(self, template: ChatTemplate):
        self.template = template

    def __call__(self, columns: Mapping[str, list[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
        names = list(columns)
        return columns_of([self._row(dict(zip(names, row)), max_tokens) for row in zip(*columns.values())])

    def _row(self, values: Mapping[str, Any], max_tokens: int | None) -> dict[str, list[int]]:
        found = preference_of({name: value for name, value in values.items() if name != "label"})
        answers, kinds = list(found.answers), [CHOSEN, REJECTED]
        if len(answers) == 1:
            verdict = json.loads(values.get(VERDICT) or "null")
            kinds = [UNKNOWN if verdict is None else WANTED if verdict else UNWANTED]
        sequences = self._cut(found, answers, max_tokens)
        other = json.loads(values.get(OTHER) or "null")
        if other is not None:  # it has no say in how much of the prompt is kept, and may lose its own end
            sequences.append(_without_last(self._cut(found, [other], max_tokens)[0], max_tokens))
            kinds = [*kinds, MISMATCHED]
        row = {name: list(chain.from_iterable(one[name] for one in sequences))
               for name in ("input_ids", "wanted", "target")}  # fmt: skip
        return {
            **row, "cuts": [len(one["input_ids"]) for one in sequences], KIND: kinds,
            KEY: list(chain.from_iterable(key_of(one["input_ids"], one["wanted"]) for one in sequences)),
        }  # fmt: skip

    def _cut(
        self, found: Preference, answers: Sequence[list[Message]], max_tokens: int | None
    ) -> list[dict[str, list[int]]]:
        """Sequences of at most `max_tokens`, if the answers leave room: the prompt's oldest turns go first, for all
        answers alike, then the beginning of what is left of it."""
        prompts = [found.prompt, *shorter(found.prompt)] if max_tokens else [found.prompt]
        for prompt in prompts:
            sequences = [self._sequence(prompt, answer, found.tools) for answer in answers]
            excess = max(len(one["input_ids"]) for one in sequences) - (max_tokens or 0)
            if not max_tokens or excess <= 0:
                return sequences
        return [_without_first(one, excess) for one in sequences]

    def _sequence(self, prompt: Sequence[Message], answer: Sequence[Message], tools: Tools) -> dict[str, list[int]]:
        said = [{**message, "weight": 0} if message["role"] == "assistant" else message for message in prompt]
        turns = "last" if len(answer) == 1 else "all"
        return decoder_row(self.template.pieces([*said, *answer], tools, turns=turns))


def shorter(prompt: Sequence[Message]) -> list[list[Message]]:
    """The prompt without its first turns up to the next one of the user, and so on; a system text stays."""
    told = [message for message in prompt if message["role"] == "system"]
    asked = [place for place, message in enumerate(prompt) if message["role"] == "user"]
    return [[*told, *prompt[place:]] for place in asked[1:]]


def _without_first(sequence: dict[str, list[int]], excess: int) -> dict[str, list[int]]:
    """Without `excess` tokens at the beginning; one that is not to be written always stays."""
    ids, wanted = sequence["input_ids"], sequence["wanted"]
    cut = min(excess, wanted.index(1)) if 1 in wanted else excess
    return {**sequence, "input_ids": ids[cut:], "wanted": wanted[cut:]}


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


def preferences(rows: Any) -> list[Preference]:
    """What each row of a split says."""
    names = [name for name in rows.column_names if name not in ("file", "line")]
    return [preference_of(dict(zip(names, values))) for values in row_values(rows, names)]


def mismatched(found: Sequence[Preference]) -> list[list[Message] | None]:
    """For each row the first answer of another one that has another prompt, as KTO's zero asks for; None where all
    have the same. Which one is drawn hangs on the number of rows alone."""
    order = generator(0, "mismatched", len(found)).permutation(len(found)).tolist()
    drawn: list[list[Message] | None] = [None] * len(found)
    for place, row in enumerate(order):
        for step in range(1, len(order)):
            other = found[order[(place + step) % len(order)]]
            if other.prompt != found[row].prompt:
                drawn[row] = other.answers[0]
                break
    return drawn


def said(columns: Mapping[str, list[Any]]) -> list[str]:
    """All that is said in each row, as one text."""
    names, found = list(columns), []
    for row in zip(*columns.values()):
        one = preference_of({name: value for name, value in zip(names, row) if name != "label"})
        turns = chain(one.prompt, *one.answers)
        found.append("\n".join(turn["content"] for turn in turns if turn["content"]))
    return found

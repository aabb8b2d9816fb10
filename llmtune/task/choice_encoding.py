"""Choices beside their text and question as tokens: where there are too many, a choice is the last to lose any."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llmtune.data.columns import short

NUMBERS = ("input_ids", "token_type_ids")


class Sequences(NamedTuple):
    """The first and second text of every choice of some rows, end to end; which texts are questions; choices by row."""

    firsts: list[str]
    seconds: list[str]
    choices: list[str]
    asks: list[bool]
    """is the first text a question?"""
    sizes: list[int]


class ChoiceEncoder:
    """`encode(columns, max_tokens)`: a sequence for each choice, the text first, then question and choice.

    Of a sequence that is too long the text loses its end; where that is not enough it goes, and the question loses its
    beginning; a choice that is too long by itself stands alone and loses its end.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self._num_alike, self._first_alike = 0, ""

    def __call__(self, columns: Mapping[str, list[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
        found = beside(columns)
        encoded = self._encoded(found.firsts if any(found.firsts) else None, found.seconds)
        if max_tokens is not None:
            self._cut(encoded, found, max_tokens)
        places = [slice(end - size, end) for size, end in zip(found.sizes, itertools.accumulate(found.sizes))]
        if max_tokens is not None:
            self._note_alike(encoded["input_ids"], found.choices, places)
        return {
            "cuts": [[len(ids) for ids in encoded["input_ids"][place]] for place in places],
            **{name: [list(itertools.chain(*rows[place])) for place in places] for name, rows in encoded.items()},
        }

    def told(self) -> list[str]:
        """What to say of the rows encoded since this was last asked for: whose choices can't be told apart."""
        count, self._num_alike = self._num_alike, 0
        said = f"{count:,} row(s) have different choices that are alike in their first data.max_tokens tokens"
        return [f"{said}, as {self._first_alike}"] if count else []

    def _encoded(
        self, firsts: Sequence[str] | None, seconds: Sequence[str], side: str = "right", **options: Any
    ) -> dict[str, list[list[int]]]:
        """One call of the tokenizer; `side` is where it cuts, if it does."""
        texts = [list(seconds)] if firsts is None else [list(firsts), list(seconds)]
        before, self.tokenizer.truncation_side = self.tokenizer.truncation_side, side
        try:
            made = self.tokenizer(
                *texts, **{"padding": False, "truncation": False, "verbose": False, "return_attention_mask": False,
                           **options}
            )  # fmt: skip
        finally:
            self.tokenizer.truncation_side = before
        return {name: list(made[name]) for name in NUMBERS if name in made}

    def _cut(self, encoded: dict[str, list[list[int]]], found: Sequences, max_tokens: int) -> None:
        """Put shorter sequences in the place of those that are too long."""
        long = [place for place, ids in enumerate(encoded["input_ids"]) if len(ids) > max_tokens]
        if not any(found.firsts):
            groups = {("none", "right"): long}
        else:
            groups = self._groups(found, long, max_tokens)
        for (lost, side), places in groups.items():
            if not places:
                continue
            firsts = None if lost == "none" else [found.firsts[place] if lost == "first" else "" for place in places]
            seconds = [(found.choices if lost == "choice" else found.seconds)[place] for place in places]
            truncation = {"none": "longest_first", "first": "only_first"}.get(lost, "only_second")
            cut = self._encoded(firsts, seconds, side, truncation=truncation, max_length=max_tokens)
            for name, rows in cut.items():
                for place, ids in zip(places, rows):
                    encoded[name][place] = ids

    def _groups(self, found: Sequences, long: list[int], max_tokens: int) -> dict[tuple[str, str], list[int]]:
        """Places by what must lose tokens there (the first text, the second one without it, the choice) and where."""
        room = max_tokens - self.tokenizer.num_special_tokens_to_add(pair=True)
        groups: dict[tuple[str, str], list[int]] = {}
        second, choice = (self._bare([texts[place] for place in long]) for texts in (found.seconds, found.choices))
        for number, place in enumerate(long):
            if found.firsts[place] and second[number] < room:
                group = ("first", "left" if found.asks[place] else "right")
            elif choice[number] <= room:
                group = ("second", "left")
            else:
                group = ("choice", "right")
            groups.setdefault(group, []).append(place)
        return groups

    def _bare(self, texts: list[str]) -> list[int]:
        """How many tokens texts have by themselves."""
        return [len(ids) for ids in self._encoded(None, texts, add_special_tokens=False)["input_ids"]] if texts else []

    def _note_alike(self, ids: list[list[int]], choices: list[str], places: list[slice]) -> None:
        for place in places:
            if len({tuple(row) for row in ids[place]}) < len(set(choices[place])):
                self._first_alike = self._first_alike if self._num_alike else short(choices[place][0])
                self._num_alike += 1


def beside(columns: Mapping[str, list[Any]]) -> Sequences:
    """First and second text of every choice, and how many choices each row has.

    The text (else the question) is first; the choice is second, after the question where there is a text too.
    """
    texts, questions = columns.get("text"), columns.get("question")
    found = Sequences([], [], [], [], [])
    for row, stored in enumerate(columns["choices"]):
        choices = json.loads(stored)
        text, question = (column[row] if column is not None else None for column in (texts, questions))
        found.sizes.append(len(choices))
        found.choices.extend(choices)
        found.firsts.extend([text or question or ""] * len(choices))
        found.asks.extend([not text] * len(choices))
        found.seconds.extend(f"{question} {choice}" if text and question else choice for choice in choices)
    return found

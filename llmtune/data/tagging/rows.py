"""Rows for tagging as their files have them: words with tags, or a text with spans, made into words and entities."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from llmtune.data.columns import short
from llmtune.data.tagging.schemes import (
    PLAIN,
    SCHEMES,
    Entity,
    fault_in,
    first_overlap,
    read_entities,
    without_overlaps,
)
from llmtune.data.tagging.words import Offsets, join_words, split_words

KEYS = {
    "start": ("start", "begin", "start_offset", "from", "start_char", "offset_start"),
    "end": ("end", "stop", "end_offset", "to", "end_char", "offset_end"),
    "label": ("label", "type", "tag", "labels", "entity", "entity_group", "entity_type", "class", "category"),
    "text": ("text", "surface", "word", "value", "mention"),
}
"""names that spans have in files, the usual one first"""


class BadRow(Exception):
    """What is wrong with a row; the message is told with file and line."""


@dataclass(frozen=True)
class Words:
    """A row cut into words."""

    text: str
    """as given, or the words put together"""
    offsets: Offsets
    """of each word in it"""
    given: bool = False
    """were the words given, or is it a text that was cut?"""

    @property
    def words(self) -> list[str]:
        return [self.text[start:end] for start, end in self.offsets]


@dataclass(frozen=True)
class Reading:
    """How rows are read: settled by the training rows, kept with the model."""

    scheme: str
    """of the tags in files: a name of SCHEMES, or `plain`"""
    joiners: str
    """marks that stay inside words where raw text is cut"""
    nested: bool
    """may entities overlap?"""
    repair: bool
    """are broken sequences and offsets inside words read as well as can be?"""
    by: str = "tokens"
    """which column words are taken from where a row has both: tokens, or text"""
    numbered: tuple[str, ...] = ()
    """names of tags that are numbers"""


def words_of(columns: Mapping[str, Sequence[Any]], row: int, reading: Reading) -> Words:
    """The words of a row: its tokens, or those of its text."""
    tokens, text = (columns[name][row] if columns.get(name) is not None else None for name in ("tokens", "text"))
    if tokens is not None and (reading.by == "tokens" or text is None):
        return Words(*join_words(json.loads(tokens)), given=True)
    assert text is not None  # a row has one of the two
    return Words(text, split_words(text, reading.joiners))


def plain_texts(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """The texts that rows stand for, as given or put together of their tokens."""
    if columns.get("text") is not None:
        return list(columns["text"])
    return [join_words(json.loads(tokens))[0] for tokens in columns["tokens"]]


def tags_of(columns: Mapping[str, Sequence[Any]], row: int, numbered: Sequence[str] = ()) -> list[str]:
    """The tags of a row as texts; numbers by their names.

    Raises:
        BadRow: not as many as words, an empty word or tag, a number without a name.
    """
    tags = json.loads(columns["tags"][row])
    tokens = json.loads(columns["tokens"][row])
    if len(tags) != len(tokens):
        raise BadRow(f"{len(tokens)} words and {len(tags)} tags")
    empty = [i for i, (word, tag) in enumerate(zip(tokens, tags)) if not word.strip() or not tag.strip()]
    if empty:
        raise BadRow(f"word {empty[0] + 1} or its tag is empty")
    if numbered and all(tag.isdecimal() for tag in tags):
        over = next((tag for tag in tags if int(tag) >= len(numbered)), None)
        if over is not None:
            raise BadRow(f"tag {over}, and data.label_names has {len(numbered)} names (0 to {len(numbered) - 1})")
        return [numbered[int(tag)] for tag in tags]
    return tags


def gold_of(columns: Mapping[str, Sequence[Any]], row: int, words: Words | None, reading: Reading) -> Any:
    """What is to be found in a row: its entities in order, or its tags where they are plain.

    words: those of the row; only places in a text are looked up in them.

    Raises:
        BadRow: tags or spans that are wrong, by what and where.
    """
    if reading.by == "tokens":
        tags = tags_of(columns, row, reading.numbered)
        if reading.scheme == PLAIN:
            return tags
        scheme = SCHEMES[reading.scheme]
        wrong = fault_in(tags, scheme)
        if wrong and not reading.repair:
            raise BadRow(wrong)
        return read_entities(tags, scheme)
    assert words is not None
    return _from_spans(columns["spans"][row], words, reading)


def _from_spans(kept: str | None, words: Words, reading: Reading) -> list[Entity]:
    given = json.loads(kept) if kept is not None else []
    if not isinstance(given, list):
        raise BadRow(f"the spans are a {type(given).__name__} instead of a list")
    entities = sorted({_entity(*span, words, reading.repair) for span in map(_read_span, given)})
    twice = next((one for one, two in pairwise(entities) if one[:2] == two[:2]), None)
    if twice and not reading.repair:
        raise BadRow(f"the words {_shown(words, twice)} are of two types")
    if twice:
        entities = list({entity[:2]: entity for entity in entities}.values())
    if not reading.nested:
        crossing = first_overlap(entities)
        if crossing and not reading.repair:
            one, two = (f"{entity[2]} {_shown(words, entity)}" for entity in crossing)
            raise BadRow(f"{one} and {two} overlap; what can be nested: task.head=span task.nested=true")
        entities = without_overlaps(entities)
    return entities


def _shown(words: Words, entity: Entity) -> str:
    return short(words.text[words.offsets[entity[0]][0] : words.offsets[entity[1] - 1][1]])


def _read_span(span: Any) -> tuple[int, int, str, str | None]:
    """Start, end, label and, if it is told, text of a span as files have them."""
    text = None
    if isinstance(span, dict):
        found = {what: next((span[key] for key in keys if key in span), None) for what, keys in KEYS.items()}
        start, end, label, text = (found[what] for what in ("start", "end", "label", "text"))
    elif isinstance(span, list) and len(span) == 3:
        start, end, label = span
    else:
        raise BadRow(f"a span is {short(span)} instead of {{start, end, label}} or [start, end, label]")
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    if isinstance(label, (int, float)) and not isinstance(label, bool):
        label = str(label)
    begin, stop = _place(start), _place(end)
    if begin is None or stop is None:
        raise BadRow(f"span {short(span)} has no numbers as start and end")
    if not isinstance(label, str) or not label.strip():
        raise BadRow(f"span {short(span)} has no label")
    return begin, stop, label.strip(), text if isinstance(text, str) else None


def _place(value: Any) -> int | None:
    """A number, also where it is written as a text; None for anything else."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _entity(start: int, end: int, label: str, said: str | None, words: Words, repair: bool) -> Entity:
    """The words that a span covers. Blanks at its edges don't count; `repair`: a word that is cut counts whole."""
    text, where = words.text, f"{label} [{start}, {end}]"
    if not 0 <= start < end <= len(text):
        raise BadRow(f"{where} does not lie in the text, which has {len(text)} characters")
    if said is not None and said.strip() != text[start:end].strip():
        hint = "; the end must be the character after the last" if said == text[start : end + 1] else ""
        raise BadRow(f"{where} is said to be {short(said)}, but {short(text[start:end])} stands there{hint}")
    inside = [i for i, (begin, stop) in enumerate(words.offsets) if begin < end and stop > start]
    if not inside:
        raise BadRow(f"{where} covers blanks only")
    first, last = inside[0], inside[-1]
    cut = next((i for i in (first, last) if words.offsets[i][0] < start or words.offsets[i][1] > end), None)
    if cut is not None and not repair:
        begin, stop = words.offsets[cut]
        raise BadRow(
            f"{where} ({short(text[start:end])}) cuts the word {short(text[begin:stop])} at [{begin}, {stop}]"
        )
    return first, last + 1, label

"""From the rows of all splits to what a tagger has to know: scheme, types, the longest entity; each bad row by line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import DataError, Fault, did_you_mean
from llmtune.data.labels import SHOWN, read_label_names
from llmtune.data.tagging.rows import BadRow, Reading, gold_of, tags_of, words_of
from llmtune.data.tagging.schemes import OUTSIDE, PLAIN, SCHEMES, Survey
from llmtune.data.tagging.words import find_joiners

if TYPE_CHECKING:
    from llmtune.data.rows import RawSplits

CHUNK = 1000


@dataclass
class Judged:
    """One split, read."""

    counts: Counter[str] = field(default_factory=Counter)
    """entities by type, or words by tag"""
    places: dict[str, list[str]] = field(default_factory=dict)
    """of each type or tag the first rows that have it, as file:line"""
    faults: list[Fault] = field(default_factory=list)
    bad: int = 0
    repaired: int = 0
    longest: int = 1
    """words of the longest entity"""


def chunks(rows: Any) -> Iterator[dict[str, list[Any]]]:
    """The columns of consecutive rows."""
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def source_of(raw: RawSplits) -> str:
    """`tokens`, where rows are words with tags; `text`, where they are texts with spans.

    Raises:
        DataError: neither is there.
    """
    names = set(next(iter(raw.splits.values())).column_names)
    if {"tokens", "tags"} <= names:
        return "tokens"
    if {"text", "spans"} <= names:
        return "text"
    found = [name for name in ("tokens", "tags", "text", "spans") if name in names]
    raise DataError(
        Fault("data.columns", f"found {' and '.join(found) or 'nothing'}",
              "rows are words with tags (tokens, tags) or texts with spans (text, spans)",
              "name both: data.columns.tokens=NAME data.columns.tags=NAME")
    )  # fmt: skip


def settle_reading(
    raw: RawSplits, split: str, *, scheme: str, nested: bool, repair: bool, entities: bool, label_names: Any
) -> Reading:
    """How rows are read, as the rows of `split` say it where the settings leave it open.

    Raises:
        DataError: `entities` are wanted, and tags are numbers without names.
    """
    by = source_of(raw)
    if by == "text":
        return Reading("BIO", "", nested, repair, by)
    survey, numbers = Survey(), True
    joiners = find_joiners(
        json.loads(tokens) for some in chunks(raw.splits[split].select_columns(["tokens"])) for tokens in some["tokens"]
    )
    names = tuple(read_label_names(label_names) or ())
    for some in chunks(raw.splits[split].select_columns(["tags"])):
        for tags in map(json.loads, some["tags"]):
            numbers = numbers and all(tag.isdecimal() for tag in tags)
            if names and numbers:
                tags = [names[int(tag)] for tag in tags if int(tag) < len(names)]
            survey.add(tags)
    if entities and numbers and survey.tags and not names and scheme != PLAIN:
        most = max(map(int, survey.tags))
        raise DataError(
            Fault(f"data.{split}", f"tags are numbers (0 to {most}) without names",
                  "entities need tags such as B-X I-X O",
                  "type data.label_names=[O,B-...,I-...], the names of 0, 1, 2, ... (or task.scheme=plain "
                  "task.metric=auto, if they mark no entities)")
        )  # fmt: skip
    found = survey.scheme() if scheme == "auto" else scheme
    return Reading(found, joiners, nested, repair, by, names if numbers else ())


def judge(raw: RawSplits, reading: Reading) -> dict[str, Judged]:
    """Reads every row of every split.

    Raises:
        DataError: bad rows, with file and line.
    """
    judged = {split: _judge(rows, reading) for split, rows in raw.splits.items()}
    faults: list[Fault] = []
    for split, found in judged.items():
        faults += found.faults
        if found.bad:
            given = f"{found.bad} of {len(raw.splits[split])} rows have broken tags or spans"
            more = "" if found.bad <= SHOWN else f"the first {SHOWN} are shown"
            faults.append(Fault(f"data.{split}", given, more, _way_out(reading)))
    if faults:
        raise DataError(*faults)
    return judged


def _way_out(reading: Reading) -> str:
    read = "as conlleval reads it" if reading.by == "tokens" else "whole words, the longest of what overlaps"
    scheme = f" (read as {reading.scheme}; task.scheme names another)" if reading.by == "tokens" else ""
    return f"mend them{scheme}" + ("" if reading.repair else f", or type task.broken=repair ({read})")


def _judge(rows: Any, reading: Reading) -> Judged:
    found = Judged()
    # as strict as can be, so that what was repaired is counted
    strict = replace(reading, repair=False)
    for some in chunks(rows):
        for row, (file, line) in enumerate(zip(some["file"], some["line"])):
            where = f"{file}:{line}"
            words = words_of(some, row, reading)
            try:
                gold = gold_of(some, row, words, strict)
            except BadRow as wrong:
                gold = _repaired(some, row, words, reading)
                if gold is None:
                    found.bad += 1
                    if found.bad <= SHOWN:
                        found.faults.append(Fault(where, str(wrong)))
                    continue
                found.repaired += 1
            kinds = gold if reading.scheme == PLAIN else [kind for *_, kind in gold]
            found.counts.update(kinds)
            for kind in kinds:
                places = found.places.setdefault(kind, [])
                if len(places) < 3 and where not in places:
                    places.append(where)
            if reading.scheme != PLAIN and gold:
                found.longest = max(found.longest, max(end - start for start, end, _ in gold))
    return found


def _repaired(columns: dict[str, list[Any]], row: int, words: Any, reading: Reading) -> Any:
    """The gold of a row that is broken, read as well as can be; None where that is not wanted or not possible."""
    if not reading.repair:
        return None
    try:
        if reading.by == "tokens" and reading.scheme != PLAIN:
            scheme = SCHEMES[reading.scheme]
            if any(scheme.split(tag) is None for tag in tags_of(columns, row, reading.numbered)):
                return None
        return gold_of(columns, row, words, reading)
    except BadRow:
        return None


def unknown_kinds(judged: dict[str, Judged], known: Sequence[str], first: str, what: str) -> list[Fault]:
    """Types or tags of rows that are not among `known`, with the rows that have them."""
    where = "train" if first == "train" else "the model"
    return [
        Fault(f"data.{split}", f"{what} {kind!r} is not in {where} ({count} time(s): {', '.join(found.places[kind])})",
              f"known: {', '.join(known[:SHOWN])}", did_you_mean(kind, known))
        for split, found in judged.items()
        for kind, count in sorted(found.counts.items())
        if kind not in known
    ]  # fmt: skip


def learnt_kinds(found: Judged, reading: Reading, label_names: Any, split: str) -> list[str]:
    """The types or tags that are learnt: those of data.label_names, else those of the rows, sorted.

    Raises:
        DataError: there is nothing to learn, or rows have others than were named.
    """
    entities = reading.scheme != PLAIN
    if len(found.counts) < (1 if entities else 2):
        only = next(iter(found.counts), None)
        given = "no row has an entity" if entities else f"all words have the tag {only!r}"
        raise DataError(Fault(f"data.{split}", given, "something to learn", "look at data.columns and task.scheme"))
    names = read_label_names(label_names)
    if names is not None and entities and reading.by == "tokens":  # tags were named, or their types
        split_names = [SCHEMES[reading.scheme].split(name) or ("I", name) for name in names]
        names = list(dict.fromkeys(kind for place, kind in split_names if place != OUTSIDE))
    if names is None:
        return sorted(found.counts)
    strange = sorted(set(found.counts) - set(names))
    if strange:
        raise DataError(
            Fault("data.label_names", f"the rows have {', '.join(map(repr, strange[:SHOWN]))} besides",
                  f"names: {', '.join(names[:SHOWN])}", did_you_mean(strange[0], names))
        )  # fmt: skip
    return names

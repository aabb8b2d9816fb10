"""Schemes of tags that mark entities: recognised, checked, read into spans, written from spans.

An entity is (first word, word after the last, type). A tag is a letter for the place in the entity and its type.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Entity = tuple[int, int, str]
OUTSIDE = "O"
ONLY_TYPE = "entity"
"""the type where tags are bare letters"""
TAG = re.compile(r"([BIEMSLU])(?:[-_](.+))?")


@dataclass(frozen=True)
class Scheme:
    """The letters that a scheme writes at an entity's places."""

    name: str
    begin: str
    inside: str
    end: str
    single: str

    @property
    def ends_apart(self) -> bool:
        """Has the last word of an entity a letter of its own?"""
        return self.end != self.inside

    def split(self, tag: str) -> tuple[str, str] | None:
        """Place (O, B, I, E or S) and type of a tag; None: it is no tag of this scheme."""
        if tag == OUTSIDE:
            return OUTSIDE, ""
        if self.name == "TYPES":
            return "I", tag
        found = TAG.fullmatch(tag)
        if found is None:
            return None
        letter, kind = found[1], found[2] or ONLY_TYPE
        places = {self.single: "S", self.end: "E", self.inside: "I"} if self.ends_apart else {self.inside: "I"}
        if self.name != "IO":
            places[self.begin] = "B"
        return (places[letter], kind) if letter in places else None

    def tag(self, place: str, kind: str) -> str:
        """The tag of a place in an entity."""
        letter = {"B": self.begin, "I": self.inside, "E": self.end, "S": self.single}[place]
        return f"{letter}-{kind}" if letter else kind

    def shown(self) -> str:
        """The tags that it knows, for messages."""
        letters = dict.fromkeys((self.begin, self.inside, self.end, self.single))
        return ", ".join([*(f"{letter}-X" if letter else "X" for letter in letters), OUTSIDE])


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("BIO", "B", "I", "I", "B"),
        Scheme("IOB1", "B", "I", "I", "B"),
        Scheme("BIOES", "B", "I", "E", "S"),
        Scheme("BILOU", "B", "I", "L", "U"),
        Scheme("BMES", "B", "M", "E", "S"),
        Scheme("IO", "I", "I", "I", "I"),
        Scheme("TYPES", "", "", "", ""),
    )
}
"""IOB1 writes B only between two entities of one type that touch; TYPES is IO without a letter (PER PER O)"""
PLAIN = "plain"
"""tags that mark no entities, such as parts of speech"""
FEW = 0.1
"""a share of tags below which they are taken for mistakes"""


@dataclass
class Survey:
    """What tells a scheme, counted over rows."""

    tags: Counter[str] = field(default_factory=Counter)
    starts_inside: int = 0
    """I-X that follows neither B-X nor I-X"""
    begins_apart: int = 0
    """B-X that follows no X"""

    def add(self, tags: Sequence[str]) -> None:
        self.tags.update(tags)
        before = ""
        for tag in tags:
            found = TAG.fullmatch(tag)
            kind = (found[2] or ONLY_TYPE) if found else ""
            if found and kind != before:
                self.starts_inside += found[1] == "I"
                self.begins_apart += found[1] == "B"
            before = kind

    def scheme(self) -> str:
        """The scheme that fits most tags: a name of SCHEMES, or PLAIN. A few odd tags don't change it."""
        inside = {tag: count for tag, count in self.tags.items() if tag != OUTSIDE}
        letters: Counter[str] = Counter()
        typed = 0
        for tag, count in inside.items():
            found = TAG.fullmatch(tag)
            if found:
                letters[found[1]] += count
                typed += count if found[2] else 0
        total = sum(inside.values())
        if not letters or (letters.total() * 2 <= total and typed < FEW * total):
            return "TYPES" if inside and OUTSIDE in self.tags else PLAIN
        if letters.total() * 2 <= total and OUTSIDE not in self.tags:
            return PLAIN
        return self._scheme_of(letters)

    def _scheme_of(self, letters: Counter[str]) -> str:
        if letters["M"] > letters["I"]:
            return "BMES"
        ends = letters["E"] + letters["S"], letters["L"] + letters["U"]
        # where ends have letters, each B has its E or L
        if sum(ends) and 2 * sum(ends) >= (letters["B"] or letters["I"]):
            return "BIOES" if ends[0] >= ends[1] else "BILOU"
        if not letters["B"]:
            return "IO"
        return "IOB1" if self.starts_inside * FEW > self.begins_apart else "BIO"


def recognise(rows: Iterable[Sequence[str]]) -> str:
    """The scheme that all tags of `rows` are in: a name of SCHEMES, or PLAIN."""
    survey = Survey()
    for tags in rows:
        survey.add(tags)
    return survey.scheme()


def fault_in(tags: Sequence[str], scheme: Scheme) -> str | None:
    """What is wrong with a sequence of tags, the first thing; None: nothing."""
    before = (OUTSIDE, "")
    for i, tag in enumerate(tags):
        now = scheme.split(tag)
        if now is None:
            return f"tag {tag!r} (word {i + 1}) is none of {scheme.name}, which has {scheme.shown()}"
        wrong = _misplaced(before, now, scheme)
        if wrong:
            after = repr(tags[i - 1]) if i else "the start"
            return f"tag {tag!r} (word {i + 1}) after {after}: {wrong}"
        before = now
    if scheme.ends_apart and before[0] in "BI":
        return f"the row ends with {tags[-1]!r}: in {scheme.name} an entity ends with {scheme.tag('E', before[1])}"
    return None


def _misplaced(before: tuple[str, str], now: tuple[str, str], scheme: Scheme) -> str:
    """Why a tag can't follow another, as (place, type); "" where it can."""
    place, kind = now
    if scheme.name in ("IO", "TYPES"):
        return ""
    if scheme.name == "IOB1":
        if place == "B" and before[1] != kind:
            return f"in IOB1 an entity begins with I-{kind}, and with B-{kind} only right after another one"
        return ""
    opened = before[0] in ("B", "I")
    goes_on = place in ("I", "E")
    if goes_on and not (opened and before[1] == kind):
        return f"in {scheme.name} an entity begins with {scheme.tag('B', kind)}"
    if scheme.ends_apart and opened and not goes_on:
        return f"in {scheme.name} an entity ends with {scheme.tag('E', before[1])}"
    return ""


def may_follow(names: Sequence[str], scheme: Scheme) -> tuple[list[bool], list[list[bool]], list[bool]]:
    """Which of the tags may stand first, [i][j]: tag j after tag i, and which last."""
    split = [scheme.split(name) or (OUTSIDE, "") for name in names]
    first = [not _misplaced((OUTSIDE, ""), one, scheme) for one in split]
    pairs = [[not _misplaced(one, two, scheme) for two in split] for one in split]
    last = [not (scheme.ends_apart and one[0] in ("B", "I")) for one in split]
    return first, pairs, last


def read_entities(tags: Sequence[str], scheme: Scheme) -> list[Entity]:
    """The entities in a sequence of tags. Broken sequences are read as conlleval and seqeval do: what continues
    nothing begins an entity, what has no end ends where it can't go on."""
    found: list[Entity] = []
    start, opened, before = 0, "", OUTSIDE
    for i, tag in enumerate(tags):
        place, kind = scheme.split(tag) or (OUTSIDE, "")
        if opened and (place in (OUTSIDE, "B", "S") or kind != opened or before in ("E", "S")):
            found.append((start, i, opened))
            opened = ""
        if place != OUTSIDE and not opened:
            start, opened = i, kind
        before = place
    if opened:
        found.append((start, len(tags), opened))
    return found


def write_tags(entities: Iterable[Entity], num_words: int, scheme: Scheme) -> list[str]:
    """The tags of a row of `num_words` words with these entities, none of which overlap."""
    tags = [OUTSIDE] * num_words
    for start, end, kind in entities:
        if end - start == 1:
            tags[start] = scheme.tag("S", kind)
        else:
            tags[start:end] = [
                scheme.tag("B", kind), *[scheme.tag("I", kind)] * (end - start - 2), scheme.tag("E", kind)
            ]  # fmt: skip
    return tags


def tag_names(types: Iterable[str], scheme: Scheme) -> list[str]:
    """All tags of a scheme for these types, O first."""
    places = dict.fromkeys(scheme.tag(place, "") for place in "BIES")
    by_letter = {scheme.tag(place, ""): place for place in "SEIB"}
    return [OUTSIDE, *(scheme.tag(by_letter[letter], kind) for kind in types for letter in places)]


def first_overlap(entities: Iterable[Entity]) -> tuple[Entity, Entity] | None:
    """Two entities that share a word, if there are any."""
    ordered = sorted(entities)
    return next(((one, two) for one, two in pairwise(ordered) if two[0] < one[1]), None)


def without_overlaps(entities: Iterable[Entity]) -> list[Entity]:
    """The longest of those that overlap, in order."""
    kept: list[Entity] = []
    for one in sorted(entities, key=lambda entity: (entity[0] - entity[1], entity)):
        if all(one[1] <= other[0] or other[1] <= one[0] for other in kept):
            kept.append(one)
    return sorted(kept)

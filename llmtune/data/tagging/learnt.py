"""What a tagger knows besides its weights: how rows are read, which types there are, and the tags that it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmtune.data.labels import LabelTable
from llmtune.data.tagging.rows import Reading
from llmtune.data.tagging.schemes import OUTSIDE, PLAIN, SCHEMES, Entity, Scheme, tag_names, write_tags


@dataclass(frozen=True)
class Learnt:
    """Settled by the training rows, kept with the model."""

    reading: Reading
    learn_as: str
    """the scheme of the tags that are learnt: a name of SCHEMES, or `plain`"""
    kinds: tuple[str, ...]
    """types of entities, or plain tags"""
    spans: bool
    """are spans scored, and not tags?"""
    longest: int
    """words of the longest entity that was seen"""

    @property
    def plain(self) -> bool:
        """Are they tags that mark no entities?"""
        return self.learn_as == PLAIN

    @property
    def scheme(self) -> Scheme:
        """Of the tags that are learnt."""
        return SCHEMES[self.learn_as]

    @property
    def labels(self) -> LabelTable:
        """The classes of the head: tags; or none and the types, where spans are scored."""
        names: Sequence[str] = self.kinds
        if self.spans:
            names = [OUTSIDE, *self.kinds]
        elif not self.plain:
            names = tag_names(self.kinds, self.scheme)
        return LabelTable(tuple(names), {name: i for i, name in enumerate(names)})

    def write(self, entities: Sequence[Entity], num_words: int) -> list[str]:
        """The tags of a row with these entities."""
        return write_tags(entities, num_words, self.scheme)

    def reads(self, by: str) -> Learnt:
        """For rows of the other kind: a model that learnt from tags held against texts with spans, or the reverse."""
        if by == self.reading.by:
            return self
        return dataclasses.replace(self, reading=dataclasses.replace(self.reading, by=by, scheme=self.learn_as))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Learnt:
        reading = {**plain["reading"], "numbered": tuple(plain["reading"]["numbered"])}
        return cls(**{**plain, "reading": Reading(**reading), "kinds": tuple(plain["kinds"])})

"""What is known of the answers of a split before any token is made: how many, how long, which places were chosen."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

from llmtune.data.forms.answer_places import read_answers

SHOWN_LINES, NUM_LONGEST, CHUNK_ROWS = 3, 100, 1000


@dataclass
class Counts:
    """Of the questions of a split."""

    answerable: int = 0
    unanswerable: int = 0
    repeated: int = 0
    """questions with answers without a place that occur several times in their context"""
    repeated_lines: list[str] = field(default_factory=list)
    """where the first of them stand"""
    longest: list[str] = field(default_factory=list)
    """the longest answers, by characters"""

    def by_name(self) -> dict[str, int]:
        return {"answerable": self.answerable, "unanswerable": self.unanswerable}

    def warnings(self, split: str) -> list[str]:
        if not self.repeated:
            return []
        shown = ", ".join(self.repeated_lines) + (", ..." if self.repeated > SHOWN_LINES else "")
        return [
            f"{split}: answers to {self.repeated} question(s) have no place and stand several times in their text; the "
            f"first place is taken ({shown})"
        ]


def count_answers(rows: Any) -> Counts:
    """Look through the raw rows of a split."""
    found = Counts()
    longest: set[str] = set()
    for batch in rows.select_columns(["context", "answers", "file", "line"]).iter(CHUNK_ROWS):
        for context, answers, file, line in zip(batch["context"], batch["answers"], batch["file"], batch["line"]):
            gold = read_answers(answers, context)
            found.answerable += bool(gold.places)
            found.unanswerable += not gold.places
            if gold.repeated:
                found.repeated += 1
                found.repeated_lines += [f"{file}:{line}"] if found.repeated <= SHOWN_LINES else []
            longest.update(gold.texts)
        longest = set(heapq.nlargest(NUM_LONGEST, longest, key=lambda text: (len(text), text)))
    found.longest = sorted(longest)
    return found

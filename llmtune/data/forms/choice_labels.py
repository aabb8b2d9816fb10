"""Which choice is the right one, from every way in which files say it: a number from 0 or 1, a letter, or its text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from llmtune.core.errors import DataError, Fault
from llmtune.data.columns import short

FORMS = ("from_0", "from_1", "letter", "text")
MEANINGS = {
    "from_0": "numbers of choices, the first is 0", "from_1": "numbers of choices, the first is 1",
    "letter": "letters of choices, the first is A", "text": "texts of choices",
}  # fmt: skip
SHOWN, CHUNK_ROWS = 20, 1000


@dataclass
class Read:
    """One reading of a split's labels: the right choice's place in each row, and the rows that it does not fit."""

    targets: list[int] = field(default_factory=list)
    misfits: list[Fault] = field(default_factory=list)
    num_misfits: int = 0

    def miss(self, where: str, what: str) -> None:
        self.num_misfits += 1
        if len(self.misfits) < SHOWN:
            self.misfits.append(Fault(where, what))


def settle_form(rows: Any) -> str:
    """The form that all labels of train fit. A number counts from 0 where any is 0, else from 1.

    Raises:
        DataError: they fit none; the faults are those of the form that fits the most rows.
    """
    numbers = letters = True
    zero = False
    for _, _, label in _labels(rows):
        numbers, zero = numbers and label.isdecimal(), zero or label == "0"
        letters = letters and len(label) == 1 and label.isascii() and label.isalpha()
    possible = ["from_0" if zero else "from_1", "text"] if numbers else ["letter", "text"] if letters else ["text"]
    fitting = {form: read(rows, form) for form in possible}
    best = min(fitting, key=lambda form: (fitting[form].num_misfits, FORMS.index(form)))
    refuse({"train": fitting[best]}, best)
    return best


def read(rows: Any, form: str) -> Read:
    """The right choice of each row, from 0, by one form of labels."""
    found = Read()
    for where, choices, label in _labels(rows):
        if len(choices) < 2:
            found.miss(where, f"{len(choices)} choice; there must be at least 2")
            continue
        place = _place(label, choices, form)
        if isinstance(place, str):
            found.miss(where, place)
        else:
            found.targets.append(place)
    return found


def refuse(splits: dict[str, Read], form: str) -> None:
    """DataError with the rows that `form` does not fit, if there are any."""
    faults = [fault for found in splits.values() for fault in found.misfits][:SHOWN]
    for split, found in splits.items():
        if found.num_misfits:
            faults.append(
                Fault(f"data.{split}", f"{found.num_misfits} row(s) can't be used; labels were read as "
                      f"{MEANINGS[form]}", f"task.label_form: {', '.join(FORMS)}")
            )  # fmt: skip
    if faults:
        raise DataError(*faults)


def positions(targets: list[int]) -> dict[str, int]:
    """How often each place holds the right choice."""
    counts = Counter(targets)
    return {f"choice {place}": counts[place] for place in sorted(counts)}


def _labels(rows: Any) -> Iterator[tuple[str, list[str], str]]:
    """Of each row: where it stands, its choices and its label."""
    for batch in rows.select_columns(["choices", "label", "file", "line"]).iter(CHUNK_ROWS):
        for choices, label, file, line in zip(batch["choices"], batch["label"], batch["file"], batch["line"]):
            value = json.loads(label)
            yield f"{file}:{line}", json.loads(choices), value if isinstance(value, str) else label


def _place(label: str, choices: list[str], form: str) -> int | str:
    """The place of the right choice, or what is wrong."""
    if form == "text":
        places = [place for place, choice in enumerate(choices) if choice.strip() == label]
        if len(places) == 1:
            return places[0]
        what = "is none of the choices" if not places else f"is {len(places)} of the choices"
        return f"the label {short(label)} {what}: {', '.join(map(short, choices[:6]))}"
    last = chr(ord("A") + len(choices) - 1) if len(choices) <= 26 else "Z"
    if form == "letter":
        place = ord(label.upper()) - ord("A") if len(label) == 1 and label.isascii() else -1
        return place if 0 <= place < len(choices) else f"the label {short(label)} is no letter from A to {last}"
    first = int(form == "from_1")
    if label.isdecimal() and 0 <= int(label) - first < len(choices):
        return int(label) - first
    return f"the label {short(label)} is no number from {first} to {len(choices) - 1 + first}"

"""From labels as the user wrote them to numbers: which kind of problem it is, and which id a class has."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import DataError, Fault, did_you_mean
from llmtune.data.files.arrow_files import column_list
from llmtune.data.splits import is_number

if TYPE_CHECKING:
    import datasets

    from llmtune.data.rows import RawSplits

MOST_NUMBERS = 30
SHOWN = 20


@dataclass(frozen=True)
class LabelTable:
    """The classes in the order of their ids, and the id of every spelling that the data may use."""

    names: tuple[str, ...]
    ids: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return {"names": list(self.names), "ids": self.ids}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> LabelTable:
        return cls(tuple(plain["names"]), dict(plain["ids"]))


@dataclass(frozen=True)
class Labelled:
    """Labels of all splits as targets: ids (single_label), sorted id lists (multi_label) or numbers (regression)."""

    problem_type: str
    table: LabelTable | None
    """None for regression"""
    targets: dict[str, list[Any]]
    report: dict[str, dict[str, Any]]
    """per split: counts by name, or min, mean and max"""
    warnings: list[str] = field(default_factory=list)


def label_lists(raw: Iterable[str], delimiter: str | None = None) -> list[str | list[str]]:
    """Labels out of their JSON; those with a delimiter, and lists, become lists of texts without blanks or repeats."""
    known: dict[str, str | list[str]] = {}
    labels = []
    for text in raw:
        if text not in known:
            value = json.loads(text)
            if isinstance(value, str) and delimiter:
                value = [word.strip() for word in value.split(delimiter) if word.strip()]
            known[text] = list(dict.fromkeys(value)) if isinstance(value, list) else value
        labels.append(known[text])
    return labels


def problem_type(labels: Iterable[str | list[str]]) -> str:
    """What labels say when the setting is `auto`.

    Any list: multi_label. Numbers of which one is no integer, or more than 30 distinct ones: regression.
    Anything else: single_label. (`1.0` and `0.0` are whole: classes.)
    """
    distinct = set()
    for label in labels:
        if isinstance(label, list):
            return "multi_label"
        distinct.add(label)
    if distinct and all(is_number(label) for label in distinct):
        numbers = {float(label) for label in distinct}
        if len(numbers) > MOST_NUMBERS or any(not number.is_integer() for number in numbers):
            return "regression"
    return "single_label"


def read_label_names(setting: str | list[str] | None) -> list[str] | None:
    """`data.label_names` as a list: given, or one a line (or a JSON list) in a file. DataError."""
    if setting is None:
        return None
    if isinstance(setting, str):
        path = Path(setting).expanduser()
        if not path.is_file():
            raise DataError(
                Fault("data.label_names", f"{setting!r} is no file", "a list of names, or a file with one a line")
            )
        text = path.read_text(encoding="utf-8-sig")
        names = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else [line.strip() for line in text.splitlines() if line.strip()]
        )
    else:
        names = list(setting)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise DataError(
            Fault("data.label_names", f"{wrong[0]!r} is no text", "names are texts", f"quote it: '{wrong[0]}'")
        )
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated or len(names) < 2:
        what = f"{repeated[0]!r} stands twice" if repeated else f"{len(names)} name(s); at least 2 are needed"
        raise DataError(Fault("data.label_names", what))
    return names


def build_table(labels: Iterable[str | list[str]], label_names: Sequence[str] | None = None) -> LabelTable:
    """Ids for the labels of train: in the order of `label_names`, else sorted (numbers by value).

    With names given, labels may be those names, or numbers counted from 0; from 1 where the highest is the number
    of names and 0 does not occur. DataError where labels fit neither.
    """
    found = {word for label in labels for word in (label if isinstance(label, list) else [label])}
    if label_names is None:
        names = sorted(
            found,
            key=lambda name: (
                (0, float(name), name) if is_number(name) and math.isfinite(float(name)) else (1, 0.0, name)
            ),
        )
        return LabelTable(tuple(names), {name: i for i, name in enumerate(names)})
    ids = {name: i for i, name in enumerate(label_names)}
    strange = sorted(found - ids.keys())
    if not strange:
        return LabelTable(tuple(label_names), ids)
    if all(word.isdecimal() for word in found):
        numbers = {int(word) for word in found}
        first = 1 if 0 not in numbers and max(numbers) == len(label_names) else 0
        if max(numbers) - first < len(label_names):
            numbered = {str(number + first): number for number in range(len(label_names))}
            return LabelTable(tuple(label_names), {**ids, **numbered, **{word: int(word) - first for word in found}})
    shown = ", ".join(f"{word!r}" for word in strange[:SHOWN])
    raise DataError(
        Fault(
            "data.label_names",
            f"the rows have labels that are not among the {len(label_names)} names: {shown}",
            f"names: {', '.join(label_names[:SHOWN])}",
            did_you_mean(strange[0], label_names),
        )
    )


def label_splits(
    raw: RawSplits,
    *,
    delimiter: str | None = None,
    label_names: str | list[str] | None = None,
    problem: str = "auto",
    table: LabelTable | None = None,
) -> Labelled:
    """Targets of every split; DataError with all faults. `table`: that of a trained model, which rows must fit."""
    labels = {split: label_lists(column_list(rows, "label"), delimiter) for split, rows in raw.splits.items()}
    first = next(iter(labels))
    kind = problem_type(labels[first]) if problem == "auto" else problem
    faults = _misfits(raw, labels, kind)
    if faults:
        raise DataError(*faults)
    if kind == "regression":
        return _numbers(raw, labels)
    table = table or build_table(labels[first], read_label_names(label_names))
    if kind == "multi_label":
        labels = {
            split: [[label] if isinstance(label, str) else label for label in rows] for split, rows in labels.items()
        }
    counts = {split: _counts(rows) for split, rows in labels.items()}
    faults = [fault for split in labels for fault in _unknown(raw, labels, split, first, counts, table)]
    faults += _one_class(first, counts[first], table) if first == "train" else []
    if faults:
        raise DataError(*faults)
    ids = table.ids
    targets: dict[str, list[Any]] = {
        split: [sorted({ids[word] for word in label}) if isinstance(label, list) else ids[label] for label in rows]
        for split, rows in labels.items()
    }
    report = {split: _by_name(counts[split], table) for split in labels}
    return Labelled(kind, table, targets, report, _warnings(first, report[first]) if first == "train" else [])


def _counts(labels: list[Any]) -> Counter[str]:
    return Counter(word for label in labels for word in (label if isinstance(label, list) else [label]))


def _by_name(counts: Counter[str], table: LabelTable) -> dict[str, Any]:
    named: Counter[str] = Counter()
    for word, times in counts.items():
        named[table.names[table.ids[word]]] += times
    return {"counts": {name: named[name] for name in table.names}}


def _places(rows: datasets.Dataset, chosen: list[int]) -> str:
    shown = [f"{rows[i]['file']}:{rows[i]['line']}" for i in chosen[:3]]
    return ", ".join(shown) + (f" and {len(chosen) - 3} more" if len(chosen) > 3 else "")


def _misfits(raw: RawSplits, labels: dict[str, list[Any]], kind: str) -> list[Fault]:
    """Labels of a shape that the kind of problem can't have, by file and line."""
    faults = []
    for split, rows in labels.items():
        if kind == "regression":
            bad = [
                i
                for i, label in enumerate(rows)
                if isinstance(label, list) or not is_number(label) or not math.isfinite(float(label))
            ]
            what, fix = "is no finite number, as regression needs", "task.problem_type=single_label"
        elif kind == "single_label":
            bad = [i for i, label in enumerate(rows) if isinstance(label, list)]
            what, fix = "is a list, and task.problem_type=single_label", "task.problem_type=multi_label"
        else:
            return []
        for i in bad[:SHOWN]:
            row = raw.splits[split][i]
            faults.append(Fault(f"{row['file']}:{row['line']}", f"label {rows[i]!r} {what}"))
        if bad:
            faults.append(Fault(f"data.{split}", f"{len(bad)} of {len(rows)} labels do not fit", "", fix))
    return faults


def _unknown(
    raw: RawSplits,
    labels: dict[str, list[Any]],
    split: str,
    first: str,
    counts: dict[str, Counter[str]],
    table: LabelTable,
) -> list[Fault]:
    faults = []
    for word in sorted(set(counts[split]) - table.ids.keys()):
        rows = [
            i for i, label in enumerate(labels[split]) if word == label or (isinstance(label, list) and word in label)
        ]
        same = next((name for name in table.ids if _alike(word, name)), None)
        hint = f"train writes it {same!r}" if same else did_you_mean(word, table.ids)
        missing = "train" if first == "train" else "the model's labels"
        known = ", ".join(table.names[:SHOWN]) + (", ..." if len(table.names) > SHOWN else "")
        faults.append(
            Fault(
                f"data.{split}",
                f"label {word!r} is not in {missing} ({len(rows)} row(s): {_places(raw.splits[split], rows)})",
                f"known: {known}",
                hint,
            )
        )
    return faults


def _alike(one: str, two: str) -> bool:
    return one.casefold() == two.casefold() or (is_number(one) and is_number(two) and float(one) == float(two))


def _one_class(split: str, counts: Counter[str], table: LabelTable) -> list[Fault]:
    if len({table.ids[word] for word in counts if word in table.ids}) >= 2:
        return []
    name = next(iter(counts), None)
    given = f"all {counts[name]} rows have the label {name!r}" if name is not None else "no row has a label"
    return [Fault(f"data.{split}", given, "at least 2 classes are needed", "look at data.columns.label")]


def _warnings(split: str, report: dict[str, Any]) -> list[str]:
    none = [name for name, count in report["counts"].items() if count == 0]
    single = [name for name, count in report["counts"].items() if count == 1]
    lines = []
    if none:
        lines.append(f"{split}: no row of {len(none)} class(es): {', '.join(none[:SHOWN])}")
    if single:
        lines.append(f"{split}: only one row of {len(single)} class(es): {', '.join(single[:SHOWN])}")
    return lines


def _numbers(raw: RawSplits, labels: dict[str, list[Any]]) -> Labelled:
    targets = {split: [float(label) for label in rows] for split, rows in labels.items()}
    report = {
        split: {"min": min(rows), "mean": sum(rows) / len(rows), "max": max(rows), "distinct": len(set(rows))}
        for split, rows in targets.items()
    }
    first = next(iter(targets))
    if first == "train" and report[first]["distinct"] < 2:
        raise DataError(
            Fault(
                "data.train",
                f"all {len(targets[first])} rows have the score {targets[first][0]:g}",
                "scores must differ",
            )
        )
    return Labelled("regression", None, targets, report)

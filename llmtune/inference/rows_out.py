"""What `predict` writes: the input's columns and the predictions beside them, as CSV, TSV or JSONL."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from llmtune.core.errors import Fault, LlmtuneError, UserError, did_you_mean
from llmtune.data.files.tables import Spelled

FORMATS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
DIGITS = 6
"""decimals of a probability"""


def format_for(path: str | None, wanted: str | None, is_json: bool) -> str:
    """csv, tsv or jsonl: by the name of the file, else what was asked for, else like the input.

    Raises:
        UserError: the name tells of another format.
    """
    if wanted is not None and wanted not in FORMATS.values():
        known = ("csv", "tsv", "jsonl")
        raise UserError(
            Fault("--format", f"{wanted!r} was given", f"allowed: {', '.join(known)}", did_you_mean(wanted, known))
        )
    if path in (None, "-"):
        return wanted or ("jsonl" if is_json else "csv")
    told = FORMATS.get(Path(str(path)).suffix.lower())
    if told is None and wanted is None:
        allowed = f"allowed: {' '.join(FORMATS)}"
        raise UserError(Fault("-o", f"{path!r} does not tell a format", allowed, "or type --format csv"))
    return wanted or str(told)


@contextmanager
def output(path: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that takes its name only when all of it is written.

    Raises:
        LlmtuneError: it can't be written.
    """
    if path in (None, "-"):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")  # type: ignore[union-attr]
        yield sys.stdout
        sys.stdout.flush()
        return
    target = Path(str(path)).expanduser()
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
        os.replace(aside, target)
    except OSError as error:
        raise LlmtuneError(Fault("-o", f"{path} can't be written: {error.strerror or error}")) from error
    finally:
        aside.unlink(missing_ok=True)


class CsvOut:
    """Rows as CSV or TSV. Added names are changed where the input has them: `label` becomes `predicted_label`."""

    def __init__(self, file: TextIO, names: Sequence[str], task: Any, *, tab: bool, joint: str):
        self.names, self.task, self.joint = names, task, joint
        labels = task.labels.names if task.labels else ()
        self.joins = not any(joint in name for name in labels)
        mark = "\t" if tab else ","
        self.plain = csv.writer(file, delimiter=mark, lineterminator="\n")
        self.quoted = csv.writer(file, delimiter=mark, lineterminator="\n", quoting=csv.QUOTE_ALL)
        self.plain.writerow([*names, *unused(task.table_names, names)])

    def write(self, values: Mapping[str, Any], predicted: Mapping[str, Any] | None) -> None:
        row = [*(cell(values.get(name)) for name in self.names), *self._added(predicted)]
        # the module leaves a lone carriage return unquoted, and readers take it for the end of a line
        (self.quoted if any("\r" in str(value) for value in row) else self.plain).writerow(row)

    def _added(self, predicted: Mapping[str, Any] | None) -> list[Any]:
        names = self.task.table_names
        if predicted is None:
            return [""] * len(names)
        values = zip(names, self.task.table(predicted))
        return [self._labels(value) if name == "label" else cell(rounded(value)) for name, value in values]

    def _labels(self, label: Any) -> Any:
        if not isinstance(label, list):
            return label
        return self.joint.join(label) if self.joins else json.dumps(label, ensure_ascii=False)


class JsonOut:
    """Rows as one JSON object a line."""

    def __init__(self, file: TextIO, names: Sequence[str], task: Any):
        self.file = file
        self.keys = dict(zip(task.fields, unused(task.fields, names)))

    def write(self, values: Mapping[str, Any], predicted: Mapping[str, Any] | None) -> None:
        row = {name: _json_value(value) for name, value in values.items()}
        for field, key in self.keys.items():
            value = None if predicted is None else predicted[field]
            row[key] = value if field == "label" else rounded(value)
        line = json.dumps(row, ensure_ascii=False, default=str)
        self.file.write(line.encode("utf-8", "backslashreplace").decode() + "\n")


def unused(wanted: Sequence[str], taken: Iterable[str]) -> list[str]:
    """Each name as wanted, or made unlike all that are taken: `predicted_label`, `predicted_label_2`."""
    found, all_taken = [], set(taken)
    for name in wanted:
        tried, number = name, 1
        while tried in all_taken:
            tried = f"predicted_{name}" + (f"_{number}" if number > 1 else "")
            number += 1
        found.append(tried)
        all_taken.add(tried)
    return found


def cell(value: Any) -> str:
    """A value in a CSV field: texts and numbers as they are, nothing as an empty field, the rest as JSON."""
    if value is None:
        return ""
    if isinstance(value, (bool, list, dict)):
        return json.dumps(_json_value(value), ensure_ascii=False, default=str)
    return str(value)


def _json_value(value: Any) -> Any:
    """Numbers that were kept as they are spelled become numbers again."""
    if isinstance(value, dict):
        return {key: _json_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_json_value(inner) for inner in value]
    if isinstance(value, Spelled):
        return int(value) if value.lstrip("-").isdigit() else float(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rounded(value: Any) -> Any:
    """Numbers with so many decimals as tell something, also inside of lists and objects."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value

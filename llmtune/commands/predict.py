"""`llmtune predict`: every row of a file, or of standard input, with what the model makes of it."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.commands.arguments import Line, read_line
from llmtune.core.environment import set_environment
from llmtune.core.errors import Fault, UserError

if TYPE_CHECKING:
    from llmtune.inference.predictor import Predictor
    from llmtune.inference.rows_in import Input, InputRow, Wanted

HELP = """llmtune predict: what a trained model makes of rows, offline

usage: llmtune predict DIR [FILE] [-o FILE] [--lines] [--format csv|tsv|jsonl] [key=value ...]

  DIR       a run folder, or the model/ of one
  FILE      CSV, TSV, JSON, JSONL, Parquet, plain text (also .gz); - or nothing: standard input, which is one text
            a line, JSONL, or CSV with a header that names the column of the texts
  -o FILE   .csv, .tsv or .jsonl; nothing: standard output, as CSV, or as JSONL where the input is JSON
  --lines   the input is one text a line, whatever it looks like
  --format  of the output, where its name does not tell

Columns are read as in training; data.columns.text=NAME names another. data.* and hardware.* may be set, such as
data.encoding=utf-16, data.delimiter=';' (or data.format=jsonl for standard input), hardware.device=cpu; of a task
that writes texts how it does so: task.num_beams=4, task.temperature=0.7, task.max_new_tokens=200.

Each row comes back in its place with its own columns and what its task predicts. For labels: label, probability,
probability_<label> (JSONL: an object probabilities); for several labels there is no single probability; a score has
none at all. docs/tasks tells what other tasks write. Where the input has such a column the new one is predicted_label.
A row without a text gets nothing, and is counted on standard error.

examples:
  llmtune predict outputs/sentiment/2026-01-31/10-20-30 reviews.csv -o labelled.csv
  echo "What a film" | llmtune predict outputs/sentiment/2026-01-31/10-20-30"""

WINDOW_ROWS, WINDOW_CHARS = 4096, 8_000_000
"""rows held in memory at a time"""
SHOWN_LINES = 5
IDLE = (
    *("data.train", "data.validation", "data.test", "data.validation_share", "data.test_share", "data.split_seed"),
    *("data.limit", "data.max_tokens", "data.on_overlength", "data.max_truncated_share", "data.on_bad_row"),
    *("data.max_bad_rows", "data.columns.label", "data.label_names", "data.cache_dir"),
)
"""keys of reading for training, which would change nothing here"""


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(HELP)
        return 0
    valued = {"-o": "out", "--output": "out", "--format": "format"}
    line = read_line(argv, valued=valued, bare={"--lines": "lines"})
    if not 1 <= len(line.words) <= 2:
        given = f"{len(line.words)} were given: {' '.join(line.words)}" if line.words else "nothing was given"
        raise UserError(Fault("DIR and FILE", given, "a run folder, and a file or nothing",
                              "llmtune predict DIR in.csv -o out.csv"))  # fmt: skip
    set_environment(offline=True)
    with tempfile.TemporaryDirectory(prefix="llmtune-") as spool:
        return _predict(line, Path(spool))


def _predict(line: Line, spool: Path) -> int:
    from llmtune.inference.rows_in import open_input
    from llmtune.inference.rows_out import format_for, output
    from llmtune.inference.run_folder import find_model, settings_of, trained_task

    place = find_model(line.words[0])
    config = settings_of(place, line.settings, idle=IDLE)
    out = line.flags.get("out")
    format_for(out, line.flags.get("format"), False)  # a wrong name is told before the model is loaded
    path = line.words[1] if len(line.words) > 1 else None
    if path and out and os.path.exists(out) and os.path.samefile(path, out):
        raise UserError(Fault("-o", f"{out} is the input", "another file", "-o predictions.csv"))
    start = time.perf_counter()

    from llmtune.inference.predictor import Predictor

    wanted = wanted_columns(place, config, {setting.key for setting in line.settings})
    task = trained_task(place, config.run.plugins, config.task)
    rows = open_input(path, config.data, wanted, spool=spool, lines="lines" in line.flags, task=task)
    predictor = Predictor(place, config)
    with output(out) as file:
        writer = _writer(file, format_for(out, line.flags.get("format"), rows.is_json), rows, predictor, config)
        count, empty = _all(rows, predictor, writer)
    _tell(count, empty, predictor, out, time.perf_counter() - start)
    return 0


def wanted_columns(place: Any, config: Any, typed: set[str]) -> list[Wanted]:
    """The columns that are read: those that were typed, else those of training, as llmtune.json has them."""
    from llmtune.inference.rows_in import Wanted
    from llmtune.inference.run_folder import roles_of, trained_task

    known = place.card["columns"]
    task = trained_task(place, config.run.plugins, config.task)
    roles = [role for role in roles_of(task, known) if role.known_before]
    set_now = {role.name: getattr(config.data.columns, role.name) for role in roles}
    return [
        Wanted(role, set_now[role.name], True)
        if set_now[role.name] is not None and f"data.columns.{role.name}" in typed
        else Wanted(role, known.get(role.name), set_now[role.name] is not None and role.required and not role.unless)
        for role in roles
    ]


def _writer(file: Any, format: str, rows: Input, predictor: Predictor, config: Any) -> Any:
    from llmtune.inference.rows_out import CsvOut, JsonOut

    task = predictor.task
    if format == "jsonl":
        return JsonOut(file, rows.all_names(), task)
    joint = config.data.label_delimiter or ","
    return CsvOut(file, rows.all_names(), task, tab=format == "tsv", joint=joint)


def _all(rows: Input, predictor: Predictor, writer: Any) -> tuple[int, dict[str, list[str]]]:
    """Predict and write window by window; rows written, and the places of the empty ones by reason."""
    count, empty = 0, defaultdict(list)
    for window in _windows(rows):
        full = [row for row in window if row.texts is not None]
        texts: Mapping[str, list[str]] = {role: [row.texts[role] for row in full] for role in rows.chosen}  # type: ignore[index]
        predicted = iter(predictor.predict(texts) if full else ())
        for row in window:
            writer.write(row.values, next(predicted) if row.texts is not None else None)
            if row.texts is None:
                empty[row.reason or "nothing to read"].append(row.where)
        count += len(window)
    return count, empty


def _windows(rows: Input) -> Iterator[list[InputRow]]:
    window: list[InputRow] = []
    chars = 0
    for row in rows.rows():
        window.append(row)
        chars += sum(len(text or "") for text in row.texts.values()) if row.texts else 0
        if len(window) >= WINDOW_ROWS or chars >= WINDOW_CHARS:
            yield window
            window, chars = [], 0
    if window:
        yield window


def _tell(count: int, empty: Mapping[str, list[str]], predictor: Predictor, out: str | None, seconds: float) -> None:
    """On standard error, so that standard output holds rows and nothing else."""
    for reason, places in empty.items():
        more = f" and {len(places) - SHOWN_LINES} more" if len(places) > SHOWN_LINES else ""
        print(f"{len(places)} row(s) without a prediction, {reason}: {', '.join(places[:SHOWN_LINES])}{more}",
              file=sys.stderr)  # fmt: skip
    if predictor.num_cut:
        print(f"{predictor.num_cut} row(s) longer than {predictor.max_tokens} tokens were cut", file=sys.stderr)
    print(f"{count:,} rows in {seconds:.1f} s" + (f": {out}" if out not in (None, "-") else ""), file=sys.stderr)

"""`llmtune evaluate`: the scores of a trained model on a split or a file, and where it goes wrong."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.commands.arguments import read_line
from llmtune.core.environment import set_environment
from llmtune.core.errors import ConfigError, Fault, UserError, did_you_mean

if TYPE_CHECKING:
    from llmtune.config.settings import Config, DataSettings
    from llmtune.inference.run_folder import ModelPlace

HELP = """llmtune evaluate: score a trained model and show where it goes wrong

usage: llmtune evaluate DIR [split=train|validation|test] [data.test=FILE] [out=FILE.json] [key=value ...]

  DIR             a run folder, or the model/ of one
  split=          of the run's own rows; without it test, else validation
  data.test=FILE  any other rows with labels: a file, a glob, a folder per class or a hub name
  out=FILE.json   of the report; FILE.jsonl beside it holds the predictions. Without it they go into evaluations/
                  of the run folder, under a name that is not taken

data.* and hardware.* may be set, such as data.columns.text=NAME data.columns.label=NAME data.on_bad_row=drop; of a
task that writes texts how it does so, such as task.num_beams=4.
Rows longer than the model takes are cut and counted; none is left out for its length. The numbers are computed in fp32
unless hardware.precision says otherwise.

examples:
  llmtune evaluate outputs/sentiment/2026-01-31/10-20-30
  llmtune evaluate outputs/sentiment/2026-01-31/10-20-30 split=validation
  llmtune evaluate outputs/sentiment/2026-01-31/10-20-30 data.test=other.csv data.columns.text=review"""

SPLITS = ("train", "validation", "test")
IDLE = ("data.max_tokens", "data.on_overlength", "data.max_truncated_share")
NUM_SHOWN = 10
"""errors printed; the report keeps more"""


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(HELP)
        return 0
    from llmtune.inference.run_folder import find_model, settings_of
    from llmtune.run import evaluation_files

    line = read_line(argv)
    wanted, out = line.take("split"), line.take("out")
    if len(line.words) != 1:
        given = f"{len(line.words)} were given: {' '.join(line.words)}" if line.words else "nothing was given"
        fix = f"data.test={line.words[1]} scores a file" if len(line.words) > 1 else "llmtune evaluate DIR"
        raise UserError(Fault("DIR", given, "one run folder", fix))
    place = find_model(line.words[0])
    config = settings_of(place, line.settings, extra=("split", "out"), idle=IDLE)
    typed = {setting.key for setting in line.settings}
    split = _split(config.data, wanted, typed)
    data = _reading(config.data, split, typed)
    name = _name(getattr(data, split)) if f"data.{split}" in typed else split
    rows = getattr(data, split) or data.train or []
    rows = [os.path.expanduser(item) for item in ([rows] if isinstance(rows, str) else rows)]
    files = evaluation_files.named(out, rows) if out else evaluation_files.new(place.run or place.model, name)
    for foreign in set_environment(offline=config.offline):
        print(f"{foreign} is set in the environment; llmtune's settings decide, it is left alone")
    report = _evaluate(place, config, data, split, files)
    from llmtune.reporting.evaluation import show

    show(report, num_worst=NUM_SHOWN)
    print(f"\nreport: {files.report}\npredictions: {files.predictions}")
    return 0


def _name(given: str | list[str]) -> str:
    """A word for a file name, from what was given as the rows."""
    path = Path(given if isinstance(given, str) else given[0])
    return re.sub(r"[^\w-]+", "_", path.name.split(".")[0]).strip("_") or "rows"


def _split(data: DataSettings, given: str | None, typed: set[str]) -> str:
    """The split to score: the one asked for, the one whose rows were typed, test, validation."""
    named = [split for split in SPLITS if f"data.{split}" in typed]
    if given is not None and given not in SPLITS:
        hint = did_you_mean(given, SPLITS) or f"data.test={given} scores a file"
        raise ConfigError(Fault("split", f"'{given}' was given", f"allowed: {', '.join(SPLITS)}", hint))
    shares = {"validation": data.validation_share, "test": data.test_share, "train": 0.0}
    there = [split for split in reversed(SPLITS)
             if getattr(data, split) is not None or (data.train is not None and shares[split] > 0)]  # fmt: skip
    if given is not None:
        if given not in there:
            raise ConfigError(Fault("split", f"the run has no {given} rows", f"it has {', '.join(there) or 'none'}",
                                    f"data.{given}=FILE"))  # fmt: skip
        return given
    if len(named) > 1:
        raise ConfigError(Fault("split", f"rows were given for {' and '.join(named)}", "one split at a time",
                                f"split={named[-1]}"))  # fmt: skip
    held_out = [split for split in there if split != "train"]
    if not named and not held_out:
        raise ConfigError(Fault("split", "the run has neither test nor validation rows", "", "data.test=FILE"))
    return named[0] if named else held_out[0]


def _reading(data: DataSettings, split: str, typed: set[str]) -> DataSettings:
    """Settings that read the rows: for others than the run's own, its limit and its format do not count."""
    if f"data.{split}" not in typed:
        return data
    limit = data.limit if "data.limit" in typed else None
    kept = "data.format" in typed or data.format == "lines"  # beside which a name that tells another one is believed
    return dataclasses.replace(data, limit=limit, format=data.format if kept else "auto")


def _evaluate(place: ModelPlace, config: Config, data: DataSettings, split: str, files: Any) -> dict[str, Any]:
    from llmtune.finish import write_predictions
    from llmtune.inference.evaluation import score_rows
    from llmtune.run.files import write_json

    try:
        scored = score_rows(place, config, data, split)
        write_predictions(files.predictions, scored.predictions, scored.task)
        write_json(files.report, scored.report)
    finally:
        files.give_back()
    return scored.report

"""Where an evaluation is kept: a report and its predictions, never over those of another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmtune.core.errors import Fault, LlmtuneError, UserError


@dataclass(frozen=True)
class EvaluationFiles:
    report: Path
    predictions: Path

    def give_back(self) -> None:
        """Remove the name that was taken, if nothing was written under it."""
        if self.report.exists() and not self.report.stat().st_size:
            self.report.unlink()


def named(out: str, rows: Sequence[str] = ()) -> EvaluationFiles:
    """The file that the user named, and its .jsonl neighbour. Raises UserError, also where one of them is of `rows`."""
    report = Path(out).expanduser()
    if report.suffix != ".json":
        raise UserError(Fault("out", f"{out} is no name for JSON", "", f"out={report.with_suffix('.json')}"))
    if not report.absolute().parent.is_dir():
        raise UserError(Fault("out", f"there is no folder {report.parent}"))
    files = EvaluationFiles(report, report.with_suffix(".jsonl"))
    for written in (files.report, files.predictions):
        if written.exists() and any(os.path.exists(name) and written.samefile(name) for name in rows):
            raise UserError(Fault("out", f"{written} would be written over, and is the rows", "", "another name"))
    return files


def new(folder: Path, name: str) -> EvaluationFiles:
    """`evaluation-<name>[-n].json` in `folder`/evaluations, taken at once; two evaluations never get the same.

    Raises:
        LlmtuneError: the folder can't be written.
    """
    place, number = folder / "evaluations", 1
    try:
        place.mkdir(exist_ok=True)
        while True:
            report = place / (f"evaluation-{name}" + (f"-{number}" if number > 1 else "") + ".json")
            try:
                os.close(os.open(report, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                return EvaluationFiles(report, report.with_suffix(".jsonl"))
            except FileExistsError:
                number += 1
    except OSError as error:
        raise LlmtuneError(
            Fault("out", f"{error.filename} can't be written: {error.strerror}", "", "out=FILE.json elsewhere")
        ) from error

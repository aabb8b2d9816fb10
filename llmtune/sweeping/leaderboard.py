"""The leaderboard of a sweep: one row a job, best first, seeds grouped to mean and standard deviation."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.run.files import read_json, write_json, write_text
from llmtune.sweeping.folder import Record, SweepDir

if TYPE_CHECKING:
    from rich.table import Table

SEED = "seed"
PLAIN_WIDTH = 160
"""columns of a table that goes to a file or a pipe"""


@dataclass(frozen=True)
class Row:
    job: int
    swept: dict[str, str]
    metric: str | None
    mode: str | None
    score: float | None
    """best on validation"""
    test: float | None
    """of the same model on test"""
    seconds: float
    status: str
    cause: str | None
    folder: str


@dataclass(frozen=True)
class Group:
    """Jobs that differ in nothing but the seed; scores are those of the finished ones."""

    swept: dict[str, str]
    metric: str | None
    mode: str | None
    jobs: list[int]
    num: int
    mean: float | None
    sd: float | None
    """of the sample (n - 1); None for one"""
    test_mean: float | None
    test_sd: float | None


def rows_of(sweep: SweepDir) -> list[Row]:
    """A row for each job, the best first, those without a score last."""
    rows = [_row(record, sweep.run(record.number).path) for record in sweep.records]
    return sorted(rows, key=lambda row: (*_rank(row.metric, row.mode, row.score), row.job))


def _row(record: Record, folder: Path) -> Row:
    result: dict[str, Any] = {}
    if record.status == "finished":
        with contextlib.suppress(OSError, ValueError):
            result = read_json(folder / "result.json")
    metric = result.get("metric")
    return Row(
        job=record.number, swept=record.swept, metric=metric, mode=result.get("mode"),
        score=(result.get("best") or {}).get("score"), test=(result.get("test") or {}).get(metric),
        seconds=round(record.seconds, 1), status=record.status, cause=record.cause, folder=str(folder),
    )  # fmt: skip


def _rank(metric: str | None, mode: str | None, score: float | None) -> tuple[bool, str, float]:
    """Sorts best first within a metric; what has no score comes last."""
    value = 0.0 if score is None else score
    return score is None, metric or "", value if mode == "min" else -value


def groups_of(rows: Sequence[Row]) -> list[Group]:
    """One group for each combination without the seed, best mean first; none if the seed does not vary."""
    found: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        if SEED in row.swept:
            found.setdefault(tuple((key, text) for key, text in row.swept.items() if key != SEED), []).append(row)
    groups = []
    for key, members in found.items():
        scored = [row for row in members if row.score is not None]
        scores = [row.score for row in scored if row.score is not None]
        tests = [row.test for row in scored if row.test is not None]
        first = scored[0] if scored else members[0]
        groups.append(
            Group(dict(key), first.metric, first.mode, sorted(row.job for row in members), len(scores),
                  *_mean_sd(scores), *_mean_sd(tests))
        )  # fmt: skip
    return sorted(groups, key=lambda group: _rank(group.metric, group.mode, group.mean))


def _mean_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    return statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None


def write(sweep: SweepDir) -> tuple[list[Row], list[Group]]:
    """Replace leaderboard.csv and leaderboard.json; what they hold."""
    rows = rows_of(sweep)
    groups = groups_of(rows)
    write_json(
        sweep.path / "leaderboard.json",
        {"jobs": [dataclasses.asdict(row) for row in rows], "seeds": [dataclasses.asdict(group) for group in groups]},
    )
    write_text(sweep.path / "leaderboard.csv", as_csv(rows, groups))
    return rows, groups


def as_csv(rows: Sequence[Row], groups: Sequence[Group]) -> str:
    """One line a job; where seeds vary, mean, standard deviation and number of its group beside it."""
    keys = list(dict.fromkeys(key for row in rows for key in row.swept))
    group_of = {job: group for group in groups for job in group.jobs}
    beside = ["seeds_mean", "seeds_sd", "seeds_n"] if groups else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ["job", *keys, "metric", "score", "test", *beside, "seconds", "status", "cause", "folder"]
    writer.writerow(names)
    for row in rows:
        group = group_of.get(row.job)
        statistic = [group.mean, group.sd, group.num] if group else [None] * len(beside)
        overrides = [row.swept.get(key) for key in keys]
        writer.writerow([row.job, *overrides, row.metric, row.score, row.test, *statistic, row.seconds, row.status,
                         row.cause, row.folder])  # fmt: skip
    return text.getvalue()


def tables(rows: Sequence[Row], groups: Sequence[Group]) -> list[str]:
    """The lines to print: jobs, then seeds where they vary."""
    keys = list(dict.fromkeys(key for row in rows for key in row.swept))
    metrics = dict.fromkeys(row.metric for row in rows if row.metric)
    metric = next(iter(metrics)) if len(metrics) == 1 else "score"
    jobs = _table(["job", *keys], [metric, "test", "seconds"], ["status"])
    for row in rows:
        name = f"{row.metric} " if len(metrics) > 1 and row.metric else ""
        jobs.add_row(str(row.job), *(row.swept.get(key, "") for key in keys), name + number(row.score),
                     number(row.test), f"{row.seconds:.1f}", row.status)  # fmt: skip
    if all(group.mean is None for group in groups):
        return _printed(jobs)
    keys = [key for key in keys if key != SEED]
    seeds = _table(keys or ["jobs"], [f"{metric}, mean ± sd", "test, mean ± sd", "seeds"], [])
    for group in groups:
        names = [group.swept.get(key, "") for key in keys] or ["all"]
        seeds.add_row(*names, _spread(group.mean, group.sd), _spread(group.test_mean, group.test_sd),
                      f"{group.num} of {len(group.jobs)}")  # fmt: skip
    return [*_printed(jobs), "", *_printed(seeds)]


def _table(texts: Sequence[str], numbers: Sequence[str], last: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for name in last:
        table.add_column(name)
    return table


def _printed(table: Table) -> list[str]:
    from rich.console import Console

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH
    text = io.StringIO()
    Console(file=text, width=width, color_system=None, markup=False, highlight=False).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _spread(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f}"

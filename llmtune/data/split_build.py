"""One making of the splits: sources opened, rows streamed and judged, splits cut and reported."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from llmtune.config.settings import DataSettings
from llmtune.core.errors import DataError, Fault, Stopped
from llmtune.data import columns, splits
from llmtune.data.columns import Column
from llmtune.data.files import hub
from llmtune.data.files.arrow_files import RowWriter, copy_rows
from llmtune.data.files.tables import Table, open_table
from llmtune.data.forms.answer_places import check_answers
from llmtune.data.forms.audio import check_recording
from llmtune.data.forms.conversation import check_row as check_dialogue
from llmtune.data.forms.entity_pairs import check_pair
from llmtune.data.forms.preference_rows import check_preference
from llmtune.data.forms.programs import check_tests
from llmtune.data.forms.values import BadValue
from llmtune.data.roles import Role

SPLITS = ("train", "validation", "test")
SHOWN_LINES = 20
STOP_CHECK_ROWS = 500
ROW_CHECKS: dict[str, Callable[[dict[str, str | None]], Any]] = {
    "answers": check_answers, "head": check_pair, "messages": check_dialogue,
    "rejected": check_preference, "audio": check_recording, "tests": check_tests,
}  # fmt: skip
"""by role that a task asks for: what looks whether the values of a row fit together, and raises BadValue"""


def shares_of(settings: DataSettings) -> dict[str, float]:
    """Shares of train that stand in for splits which were not named."""
    shares = {"validation": settings.validation_share, "test": settings.test_share}
    return {split: share for split, share in shares.items() if getattr(settings, split) is None}


def collect(jobs: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """The jobs' results by name; their DataErrors together as one."""
    results, faults = {}, []
    for name, job in jobs.items():
        try:
            results[name] = job()
        except DataError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    if faults:
        raise DataError(*faults)
    return results


@dataclass
class SplitRecord:
    """What is remembered of each row of a split that was read: 24 bytes of its texts, and its label."""

    keys: array[int] = field(default_factory=lambda: array("Q"))
    near: array[int] = field(default_factory=lambda: array("Q"))
    bound: array[int] = field(default_factory=lambda: array("Q"))
    """of rows that belong together equal, and elsewhere as `near`"""
    labels: list[str | None] = field(default_factory=list)
    read: int = 0
    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)
    found: list[dict[str, Any]] = field(default_factory=list)

    def drop(self, reason: str, where: str) -> None:
        entry = self.dropped.setdefault(reason, {"count": 0, "lines": []})
        entry["count"] += 1
        if len(entry["lines"]) < SHOWN_LINES:
            entry["lines"].append(where)

    def num_dropped(self) -> int:
        return sum(entry["count"] for entry in self.dropped.values())


@dataclass
class SplitBuild:
    """One making of a cache entry: every split is read whole, then cut into what the settings ask for."""

    settings: DataSettings
    roles: Sequence[Role]
    wanted: list[str]
    folder: Path
    should_stop: Callable[[], bool]

    def run(self, found: dict[str, list[Any]]) -> None:
        opened_tables = collect(
            {f"{split}/{n}": self.opener(source) for split, listed in found.items() for n, source in enumerate(listed)}
        )
        tables_of = {
            split: [opened_tables[f"{split}/{n}"] for n in range(len(listed))] for split, listed in found.items()
        }
        _same_columns([pair for pairs in tables_of.values() for pair in pairs])
        used = [
            role.name
            for role in self.roles
            if any(role.name in chosen for pairs in tables_of.values() for _, chosen in pairs)
        ]
        read = collect({split: partial(self._read, split, pairs, used) for split, pairs in tables_of.items()})
        self._finish(read)

    def opener(self, source: Any) -> Callable[[], tuple[Table, dict[str, Column]]]:
        """What opens a source and finds its columns; DataError."""
        known = {name for role in self.roles for name in role.guesses} | {"id", "idx", "index"}
        named = dataclasses.asdict(self.settings.columns)

        def open_source() -> tuple[Table, dict[str, Column]]:
            if isinstance(source, hub.HubSplit):
                table = source.table()
            else:
                table = open_table(source, self.settings, known, [role.name for role in self.roles])
            return table, columns.resolve(table, self.roles, named)

        return open_source

    def _read(self, split: str, pairs: list[tuple[Table, dict[str, Column]]], used: list[str]) -> SplitRecord:
        """Streams a split into `<split>.raw`; DataError for bad rows unless they are to be dropped."""
        record = SplitRecord()
        kept = [role.kept for role in self.roles if role.name in used]
        schema = pyarrow.schema([(name, pyarrow.string()) for name in [*kept, "file"]] + [("line", pyarrow.int64())])
        with RowWriter(self.folder / f"{split}.raw", schema) as writer:
            for table, chosen in pairs:
                record.found.append(
                    {
                        "file": table.shown,
                        **table.found,
                        "columns": {role: column.key for role, column in chosen.items()},
                    }
                )
                for row in self._rows(table, chosen, used, record):
                    writer.add(row)
        self.judge(split, record)
        return record

    def _rows(
        self, table: Table, chosen: dict[str, Column], used: list[str], record: SplitRecord
    ) -> Iterator[list[Any]]:
        takers = [
            (role.name, chosen[role.name].get if role.name in chosen else None, role.convert)
            for role in self.roles
            if role.name in used
        ]
        given = {role.name for role in self.roles if role.known_before}
        texts = [i for i, role in enumerate(used) if role in given]
        label = used.index("label") if "label" in used else None
        binding = [used.index(role.name) for role in self.roles if role.binds and role.name in used][-1:] or texts
        paths = [used.index(role.name) for role in self.roles if role.is_path and role.name in used]
        checks = [ROW_CHECKS[role.name] for role in self.roles if role.name in ROW_CHECKS]
        for shown, line, row, reason in table.rows():
            record.read += 1
            if record.read % STOP_CHECK_ROWS == 0 and self.should_stop():
                raise Stopped("stopped while reading data")
            try:
                if reason is not None:
                    raise BadValue(reason)
                values = [convert(get(row)) if get else None for _, get, convert in takers]
                for check in checks:
                    check(dict(zip(used, values)))
            except BadValue as bad:
                record.drop(str(bad), f"{shown}:{line}")
                continue
            exact, near = splits.text_keys(*[values[i] or "" for i in texts])
            record.keys.append(exact)
            record.near.append(near)
            if paths:  # a split hangs on what files are called, not on where all of them lie
                bound = splits.text_keys(*[os.path.relpath(values[i] or "", table.folder) for i in paths])[1]
            else:
                bound = near if binding is texts else splits.text_keys(values[binding[0]] or "")[1]
            record.bound.append(bound)
            record.labels.append(None if label is None or values[label] is None else sys.intern(str(values[label])))
            yield [*values, shown, line]

    def judge(self, split: str, record: SplitRecord) -> None:
        """DataError where more rows are bad than the settings allow, or none is left."""
        bad, settings = record.num_dropped(), self.settings
        most = 0 if settings.on_bad_row == "error" else settings.max_bad_rows
        if most is not None and bad > most:
            faults = [Fault(where, reason) for reason, entry in record.dropped.items() for where in entry["lines"]][
                :SHOWN_LINES
            ]
            more = f", {len(faults)} shown" if len(faults) < bad else ""
            allowed = "" if settings.on_bad_row == "error" else f"data.max_bad_rows={most}"
            fix = "data.on_bad_row=drop leaves them out" if settings.on_bad_row == "error" else ""
            raise DataError(
                *faults, Fault(f"data.{split}", f"{bad} of {record.read} rows can't be used{more}", allowed, fix)
            )
        if bad == record.read:
            reasons = ", ".join(f"{reason}: {entry['count']}" for reason, entry in record.dropped.items())
            why = f"all {record.read} rows were dropped ({reasons})" if record.read else "its files hold no rows"
            raise DataError(Fault(f"data.{split}", f"no row is left: {why}"))

    def _finish(self, read: dict[str, SplitRecord]) -> None:
        """Cuts the splits, writes them in their final form and the report."""
        settings, report, kept_keys, kept_near = self.settings, {}, {}, {}
        for split, (origin, rows, groups) in self._places(read).items():
            keys = np.array(read[origin].keys, dtype=np.uint64)
            if settings.limit is not None:
                rows = splits.limit_rows(rows, keys, groups, settings.limit, settings.split_seed)
            copy_rows(self.folder / f"{origin}.raw", self.folder / f"{split}.arrow", rows)
            record, own = read[origin], origin == split
            kept_keys[split], kept_near[split] = keys[rows], np.array(record.near, dtype=np.uint64)[rows]
            report[split] = {
                "rows_read": record.read if own else len(rows),
                "rows_kept": len(rows),
                "dropped": record.dropped if own else {},
                **({} if own else {"taken_from": origin}),
                "duplicates": splits.duplicates(keys[rows], [record.labels[i] for i in rows]),
                "found": record.found,
            }
        for split in read:
            (self.folder / f"{split}.raw").unlink()
        whole = {"splits": report, "overlap": splits.overlap(kept_keys, kept_near)}
        (self.folder / "report.json").write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")

    def _places(self, read: dict[str, SplitRecord]) -> dict[str, tuple[str, Any, Any]]:
        """For each wanted split: the split that was read for it, its row numbers there, and their groups."""
        groups = {split: splits.strata(record.labels, self.settings.label_delimiter) for split, record in read.items()}
        places = {split: (split, np.arange(len(record.keys)), groups[split]) for split, record in read.items()}
        shares = {split: share for split, share in shares_of(self.settings).items() if share > 0}
        if "train" in read and shares:
            keys = np.array(read["train"].bound, dtype=np.uint64)
            parts = splits.part_rows(keys, groups["train"], shares, self.settings.split_seed)
            empty = [split for split, rows in parts.items() if not len(rows)]
            if empty:
                fix = " ".join(f"data.{split}_share=0" for split in shares)
                given = f"{len(np.unique(keys))} different text(s) are too few to take {' and '.join(shares)} from"
                raise DataError(Fault("data.train", given, "", f"more rows, or {fix}"))
            places |= {split: ("train", rows, groups["train"]) for split, rows in parts.items()}
        return {split: places[split] for split in SPLITS if split in places and split in self.wanted}


def _same_columns(pairs: list[tuple[Table, dict[str, Column]]]) -> None:
    """Files without header, where positions were found by their looks, must look alike."""
    bare = [
        (table, {role: column.key for role, column in chosen.items()}) for table, chosen in pairs if table.names is None
    ]
    for table, chosen in bare[1:]:
        if chosen != bare[0][1]:
            raise DataError(
                Fault(table.shown, f"its columns look like {chosen}, those of {bare[0][0].shown} like {bare[0][1]}", "",
                      "name them: " + " ".join(f"data.columns.{role}={key}" for role, key in bare[0][1].items()))
            )  # fmt: skip

"""Order, seeds to mean and standard deviation, and what the files and the printed table hold."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest

from llmtune.sweeping import leaderboard
from llmtune.sweeping.folder import Record, SweepDir


def sweep_of(path, scores, *, metric="accuracy", mode="max", keys=("optimizer.lr", "seed")):
    """A sweep with a finished job for each `(texts of keys, validation, test)`; validation None: the job failed."""
    records = []
    for number, (texts, validation, test) in enumerate(scores):
        failed = validation is None
        record = Record(number, f"id{number}", dict(zip(keys, texts, strict=True)), "failed" if failed else "finished",
                        "boom" if failed else None, 1.25)  # fmt: skip
        records.append(record)
        if not failed:
            (path / str(number)).mkdir()
            result = {"metric": metric, "mode": mode, "best": {"score": validation}, "test": test and {metric: test}}
            (path / str(number) / "result.json").write_text(json.dumps(result))
    return SweepDir(path, records, {})


SCORES = [
    (("1e-5", "1"), 0.80, 0.70),
    (("1e-5", "2"), 0.84, 0.72),
    (("3e-5", "1"), 0.90, 0.71),
    (("3e-5", "2"), None, None),
]


def test_rows_best_first_and_failures_last(tmp_path):
    rows = leaderboard.rows_of(sweep_of(tmp_path, SCORES))
    assert [row.job for row in rows] == [2, 1, 0, 3]
    assert rows[3].cause == "boom"
    assert rows[0].folder == str(tmp_path / "2")


def test_direction_of_the_metric_decides(tmp_path):
    rows = leaderboard.rows_of(sweep_of(tmp_path, SCORES, metric="loss", mode="min"))
    assert [row.job for row in rows] == [0, 1, 2, 3]


def test_seeds_are_grouped_to_mean_and_deviation(tmp_path):
    groups = leaderboard.groups_of(leaderboard.rows_of(sweep_of(tmp_path, SCORES)))
    assert [group.swept for group in groups] == [{"optimizer.lr": "3e-5"}, {"optimizer.lr": "1e-5"}]
    one, two = groups
    assert (one.num, one.sd, one.jobs) == (1, None, [2, 3])
    assert two.mean == pytest.approx(0.82)
    assert two.sd == pytest.approx(0.0282842712)
    assert two.test_mean == pytest.approx(0.71)


def test_no_groups_without_several_seeds(tmp_path):
    rows = leaderboard.rows_of(sweep_of(tmp_path, [(("1e-5",), 0.5, None)], keys=("optimizer.lr",)))
    assert leaderboard.groups_of(rows) == []
    assert leaderboard.tables(rows, [])[0].split() == ["job", "optimizer.lr", "accuracy", "test", "seconds", "status"]


def test_seeds_alone_make_one_group(tmp_path):
    rows = leaderboard.rows_of(sweep_of(tmp_path, [(("1",), 0.5, 0.5), (("2",), 0.7, 0.7)], keys=("seed",)))
    printed = "\n".join(leaderboard.tables(rows, leaderboard.groups_of(rows)))
    assert "all       0.6000 ± 0.1414" in printed


def test_files_hold_rows_and_seeds(tmp_path):
    leaderboard.write(sweep_of(tmp_path, SCORES))
    table = list(csv.DictReader(io.StringIO((tmp_path / "leaderboard.csv").read_text())))
    assert list(table[0]) == ["job", "optimizer.lr", "seed", "metric", "score", "test", "seeds_mean", "seeds_sd",
                              "seeds_n", "seconds", "status", "cause", "folder"]  # fmt: skip
    assert [(row["job"], row["score"], row["status"], row["seeds_n"]) for row in table] == [
        ("2", "0.9", "finished", "1"), ("1", "0.84", "finished", "2"), ("0", "0.8", "finished", "2"),
        ("3", "", "failed", "1"),
    ]  # fmt: skip
    stored = json.loads((tmp_path / "leaderboard.json").read_text())
    assert [row["job"] for row in stored["jobs"]] == [2, 1, 0, 3]
    assert stored["seeds"][0]["swept"] == {"optimizer.lr": "3e-5"}


def test_printed_table_names_every_job(tmp_path):
    rows = leaderboard.rows_of(sweep_of(tmp_path, SCORES))
    lines = leaderboard.tables(rows, leaderboard.groups_of(rows))
    assert lines[1].split() == ["2", "3e-5", "1", "0.9000", "0.7100", "1.2", "finished"]
    assert lines[4].split() == ["3", "3e-5", "2", "1.2", "failed"]
    assert "1e-5              0.8200 ± 0.0283  0.7100 ± 0.0141  2 of 2" in lines


def test_different_metrics_are_not_mixed(tmp_path):
    (tmp_path / "a").mkdir()
    rows = leaderboard.rows_of(sweep_of(tmp_path / "a", SCORES[:1]))
    rows += [dataclasses.replace(rows[0], job=9, metric="f1")]
    lines = leaderboard.tables(rows, [])
    assert "accuracy 0.8000" in lines[1]
    assert "f1 0.8000" in lines[2]

"""The grid: what Hydra's grammar makes of values, all faults of all jobs at once, identity of jobs."""

from __future__ import annotations

import pytest

from llmtune.config.locate import conf_dir
from llmtune.config.typed import arrange
from llmtune.core.errors import ConfigError
from llmtune.sweeping.jobs import checked_jobs, values


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def jobs_of(*words: str):
    return checked_jobs(arrange(words).settings)


def faults_of(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        jobs_of(*words)
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("seed=1", ["1"]),
        ("seed=1,2", ["1", "2"]),
        ("optimizer.lr=1e-5, 3e-5", ["1e-5", "3e-5"]),
        ("seed=range(1,4)", ["1", "2", "3"]),
        ("seed=range(1,3)", ["1", "2"]),
        ("seed=choice(4,5)", ["4", "5"]),
        ("objective=[supervised],[supervised]", ["[supervised]", "[supervised]"]),
        ("run.name='a, b','c'", ["'a, b'", "'c'"]),
        ("run.name=评论;", ["评论;"]),
        ("data.train=评论.csv,b.csv", ["评论.csv", "b.csv"]),
        ("data.delimiter=,", [","]),
        ("freeze_policy=glob(*_layers)", ["bottom_layers", "top_layers"]),
    ],
)
def test_values_of_a_line(line, texts):
    (setting,) = arrange([line]).settings
    assert [value.text for value in values(setting, [conf_dir()])] == texts


def test_product_in_the_order_of_the_line():
    jobs = jobs_of("task=sentiment", "optimizer.lr=1e-5,3e-5", "seed=1,2,3")
    labels = [f"optimizer.lr={lr} seed={seed}" for lr in ("1e-5", "3e-5") for seed in (1, 2, 3)]
    assert [job.label for job in jobs] == labels
    assert [job.number for job in jobs] == list(range(6))
    assert list(jobs[4]) == ["task=sentiment", "optimizer.lr=3e-5", "seed=2"]
    assert (jobs[4].config.optimizer.lr, jobs[4].config.seed) == (3e-5, 2)


def test_key_typed_twice_counts_once():
    assert [job.config.seed for job in jobs_of("seed=1,2", "seed=7")] == [7]


def test_recipe_may_hold_values_to_sweep(tmp_path):
    (tmp_path / "my.yaml").write_text("task: sentiment\nseed: 1,2\n")
    assert [job.config.seed for job in jobs_of("my.yaml")] == [1, 2]


def test_jobs_that_compute_the_same_run_once():
    jobs = jobs_of("optimizer.lr=1e-5,0.00001,1e-4")
    assert [job.label for job in jobs] == ["optimizer.lr=1e-5", "optimizer.lr=1e-4"]


def test_identity_passes_over_how_long_and_where_unless_swept():
    (one,) = jobs_of("seed=1", "train.max_steps=2", "sweep.jobs=1")
    (other,) = jobs_of("seed=1", "train.max_steps=9", "sweep.jobs=4", "hardware.threads=1")
    assert one.identity == other.identity
    assert len({job.identity for job in jobs_of("train.max_steps=2,9", "seed=1,2")}) == 4
    assert jobs_of("seed=1,2")[0].identity == one.identity


def test_faults_of_all_jobs_come_at_once():
    faults = faults_of("optimizer.lr=0.1,fast", "seed=1,-2", "optimizer.lrr=1", "model=tiny_bert,tiny_bart")
    assert len(faults) == 4
    lr = next(fault for fault in faults if fault.startswith("optimizer.lr:"))
    assert "'fast' is not known (jobs 4, 5, 6, 7 of 8)" in lr
    unknown = next(fault for fault in faults if fault.startswith("optimizer.lrr:"))
    assert "jobs" not in unknown
    assert any("no option 'tiny_bart'" in fault for fault in faults)
    assert any(fault.startswith("seed: -2") for fault in faults)


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (["run.dir=x", "seed=1,2"], "run.dir: every job of a sweep has a folder of its own; type sweep.dir=DIR"),
        (["resume=outputs/x"], "resume: a sweep goes on by itself"),
        (["sweep.jobs=1,2"], "sweep.jobs: several values were given; belongs to the whole sweep"),
        (["optimizer.lr=interval(1e-5,1e-3)"], "optimizer.lr: interval(1e-5,1e-3) names no values; a grid takes"),
        (["model=glob(none_*)"], "model: glob(none_*) fits no option"),
        (["+seed=1,2"], "+seed=1: a setting needs no sign (job 0 of 2)"),
    ],
)
def test_what_makes_no_sense_for_several_jobs_is_refused(words, start):
    assert faults_of(*words)[0].startswith(start)


def test_folders_of_the_user_are_handed_to_the_jobs(tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "short.yaml").write_text("# @package _global_\ntrain:\n  max_steps: 3\n")
    folder = str(tmp_path / "mine")
    (job,) = checked_jobs(arrange(["experiment=short"]).settings, [folder, str(tmp_path / "conf")])
    assert job.config.train.max_steps == 3
    assert job.flags == ("--config-dir", folder)

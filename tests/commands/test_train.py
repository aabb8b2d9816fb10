"""`llmtune train` and `check` through the real entry point: the files left, exit codes, what is said."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from llmtune.cli import main
from tests.tiny import TINY, sha_of, write_rows

FILES = {
    ".lock", "checkpoints", "config.yaml", "data_report.json", "metrics.jsonl", "model", "overrides.yaml",
    "predictions.jsonl", "result.json", "run.json", "speed.jsonl", "train.log",
}  # fmt: skip
RESULT_KEYS = {
    "task", "status", "metric", "best", "validation", "test", "train_seconds", "eval_seconds", "tokens_per_second",
    "padding_share", "peak_memory_bytes", "trainable_parameters", "parameters",
}  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    return write_rows(tmp_path / "rows")


def test_main_job_leaves_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """On the shipped reviews, with nothing but the package; the model is proven in a new process."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "task=sentiment", "train.max_steps=6", "hardware.device=cpu", "hardware.threads=1"]) == 0
    said = capsys.readouterr().out
    run = next(tmp_path.glob("outputs/sentiment/*/*"))
    assert {path.name for path in run.iterdir()} == FILES
    result = json.loads((run / "result.json").read_text())
    assert set(result) >= RESULT_KEYS
    assert result["status"] == "finished"
    report = json.loads((run / "data_report.json").read_text())
    assert all({"rows_read", "rows_kept", "dropped"} <= set(split) for split in report["splits"].values())
    logged = (run / "train.log").read_text().splitlines()
    assert [line for line in said.splitlines() if line not in logged] == []
    assert "opens in a new process with equal logits" in said
    assert f"llmtune predict {run.relative_to(tmp_path)} FILE.csv -o predictions.csv" in said
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert len((run / "predictions.jsonl").read_text().splitlines()) == 240
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["train"]["max_steps"] == 6
    assert "hydra" not in config


FAULTS = [
    ["optimizer.lrr=1", "train.epochs=-1"],
    ["data.train=nothing.csv"],
    ["data.columns.text=txt"],
    ["data.max_tokens=4", "data.on_overlength=error"],
    ["model.path=./no_folder", "model=pretrained"],
    ["freeze_policy=bottom_layers", "freeze_policy.layers=9"],
    ["hardware.precision=fp16"],
    ["train.class_weights={goood: 2}"],
    ["task.metric=spearman"],
    ["data.max_tokens=4000"],
    ["run.dir=rows"],
]


@pytest.mark.parametrize("words", FAULTS, ids=lambda words: words[0])
def test_check_and_train_refuse_with_the_same_words(
    words: list[str], rows: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    messages = []
    for word in ("check", "train"):
        assert main([word, *TINY, *rows, *words]) == 2
        messages.append(capsys.readouterr().err.replace(f"llmtune {word}: ", ""))
    assert messages[0] == messages[1]
    assert "Traceback" not in messages[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_precision_that_the_machine_would_emulate_is_refused(
    rows: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("llmtune.hardware.machine.cpu_has_bf16", lambda: False)
    assert main(["check", *TINY, *rows, "hardware.precision=bf16"]) == 2
    assert "hardware.precision: bf16 on this cpu would be emulated or fail; it can: fp32" in capsys.readouterr().err
    monkeypatch.setattr("llmtune.hardware.machine.cpu_has_bf16", lambda: True)
    assert main(["check", *TINY, *rows, "hardware.precision=bf16"]) == 0


def test_finished_run_says_so_and_goes_on_when_asked(
    rows: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, *rows, "run.dir=run", "train.batch_rows=16", "optimizer.schedule=constant", "optimizer.warmup=0"]
    assert main(["train", *words, "train.max_steps=4"]) == 0
    assert main(["train", "resume=run"]) == 0
    assert "is finished already" in capsys.readouterr().out
    assert main(["train", "resume=run", "train.max_steps=8"]) == 0
    assert "goes on after step 4" in capsys.readouterr().out
    assert main(["train", *words[:-4], "run.dir=whole", *words[-3:], "train.max_steps=8"]) == 0
    one, two = (tmp_path / name / "checkpoints/step-000008/model.safetensors" for name in ("run", "whole"))
    assert sha_of(one) == sha_of(two)


@pytest.mark.dist
def test_a_checkpoint_goes_on_with_another_number_of_processes(rows: list[str], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    words = [
        *TINY,
        *rows,
        "train.batch_rows=16",
        "model.dropout=0",
        "optimizer.schedule=constant",
        "optimizer.warmup=0",
    ]
    weights = {}
    for first, then in ((1, 2), (2, 1)):
        name = f"run{first}{then}"
        assert main(["train", *words, f"run.dir={name}", f"hardware.processes={first}", "train.max_steps=3"]) == 0
        assert main(["train", f"resume={name}", f"hardware.processes={then}", "train.max_steps=6"]) == 0
        weights[name] = load_file(tmp_path / name / "checkpoints/step-000006/model.safetensors")
    one, two = weights.values()
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 2e-6


def run_in_child(words: list[str], log: Path) -> None:
    sys.stdout = sys.stderr = log.open("w")  # the test runner has its own in their place
    code = main(["train", *words])
    sys.stdout.flush()
    os._exit(code)


def child(words: list[str], log: Path) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=run_in_child, args=(words, log))
    process.start()
    return process


def wait_for(sign: str, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if log.exists() and sign in log.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"no {sign!r} in {log.read_text()}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_the_same_command_goes_on(number: signal.Signals, rows: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = [
        *TINY,
        *rows,
        "run.dir=run",
        "resume=auto",
        "train.epochs=400",
        "train.eval_every=5",
        "train.batch_rows=16",
    ]
    process = child(words, log)
    wait_for("step 10 ", log)
    os.kill(process.pid or 0, number)
    process.join()
    assert process.exitcode == 75
    assert "everything is saved" in log.read_text()
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "stopped"
    process = child(words, tmp_path / "log2")
    wait_for("goes on after step", tmp_path / "log2")
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join()
    assert process.exitcode == 75


def test_a_signal_while_reading_data_leaves_nothing(rows: list[str], tmp_path: Path) -> None:
    big = tmp_path / "rows" / "train.jsonl"
    text = big.read_text()
    with big.open("a") as file:
        for number in range(4000):
            file.write(text.replace(" train ", f" train {number} "))
    log = tmp_path / "log"
    process = child([*TINY, *rows], log)
    time.sleep(0.7)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join()
    assert process.exitcode == 75
    assert "stopped while" in log.read_text()
    assert not (tmp_path / "outputs").exists()

"""Several sets of rows: what follows what was seen resumes to the bit, and two processes give what one gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llmtune.core.errors import Stopped
from llmtune.preflight import Prepared
from llmtune.run.checkpoint import CheckpointStore
from llmtune.training.trainer import Trainer
from tests.tiny import BESIDE, SETS, TINY, prepared_of, sha_of, together, trainer_of, write_rows

STEPS = 12
WORDS = ("train.batch_rows=9", "train.micro_rows=4", f"train.max_steps={STEPS}", "train.eval_every=3",
         "train.save_every=null", "train.log_every=2")  # fmt: skip
MIXTURES = {
    "dynamic": ["sampling=dynamic", "sampling.warmup=2"],
    "gain": ["sampling=dynamic", "sampling.signal=gain", "sampling.warmup=1", "sampling.least=0"],
    "temperature": ["sampling=temperature"],
    "uncertainty": ["balance=uncertainty"],
    "uncertainty and dynamic": ["balance=uncertainty", "sampling=dynamic", "sampling.warmup=1", "train.ema=0.9"],
    "gradnorm": ["balance=gradnorm"],
    "pcgrad": ["balance=pcgrad"],
    "scheduled": ["objective.auxiliary.weight='0:1, 0.6:0'", "objective.supervised.weight='0:0, 0.3:1'"],
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def words_of(mixture: str) -> list[str]:
    return [*together(*SETS[:2]), BESIDE, *MIXTURES[mixture]]


def stop_after(trainer: Trainer, step: int) -> None:
    trainer.should_stop = lambda: "SIGTERM" if trainer.state.step >= step else None


def go_on(prepared: Prepared, folder: Path) -> Trainer:
    torch.manual_seed(5)
    trainer = trainer_of(prepared, folder)
    checkpoint = CheckpointStore(folder / "checkpoints", keep=1).newest_good(print)
    assert checkpoint is not None
    trainer.resume(checkpoint)
    return trainer


def files_of(folder: Path) -> dict[str, str]:
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    found = {path.name: sha_of(path) for path in [*last.glob("*.safetensors"), folder / "metrics.jsonl"]}
    return found | {"parts": json.dumps(json.loads((last / "state.json").read_text())["parts"], sort_keys=True)}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_stopped_and_resumed_equals_unstopped(mixture: str, rows: list[str], tmp_path: Path) -> None:
    prepared = prepared_of(*TINY, *rows, *WORDS, *words_of(mixture))
    whole = trainer_of(prepared, tmp_path / "whole")
    whole.fit()
    first = trainer_of(prepared, tmp_path / "run")
    for stop in (4, 7):
        trainer = first if stop == 4 else go_on(prepared, tmp_path / "run")
        stop_after(trainer, stop)
        with pytest.raises(Stopped):
            trainer.fit()
        assert trainer.state.step == stop
    go_on(prepared, tmp_path / "run").fit()
    found = files_of(tmp_path / "run")
    assert found == files_of(tmp_path / "whole")
    if mixture not in ("temperature", "pcgrad", "scheduled"):
        assert "balance" in found["parts"] or "sampling" in found["parts"]


@pytest.mark.dist
@pytest.mark.parametrize("mixture", ["temperature", "uncertainty", "gradnorm", "pcgrad"])
def test_two_processes_equal_one(
    mixture: str, rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    from llmtune.cli import main

    monkeypatch.chdir(tmp_path)
    words = [*TINY, *rows, *WORDS, *words_of(mixture), "model.dropout=0", "train.log_every=1"]
    assert main(["train", *words, "run.dir=one"]) == 0
    assert main(["train", *words, "run.dir=two", "hardware.processes=2"]) == 0
    last = f"checkpoints/step-{STEPS:06d}"
    one, two = (load_file(tmp_path / name / last / "model.safetensors") for name in ("one", "two"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-6
    logs = [[json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
            for name in ("one", "two")]  # fmt: skip
    for mine, other in zip(*logs):
        numbers = {key: value for key, value in mine.items() if key.startswith(("loss", "weight"))}
        assert {key: other[key] for key in numbers} == pytest.approx(numbers, abs=1e-6)


def test_a_distance_pulls_in_each_step_whoevers_rows_it_reads(rows: list[str], tmp_path: Path) -> None:
    words = together(*SETS[:2], "objective=l2_sp")
    prepared = prepared_of(*TINY, *rows, *WORDS, *words, BESIDE, "sampling=round_robin", "train.log_every=1")
    trainer_of(prepared, tmp_path / "run").fit()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["split"] == "train"]
    assert steps
    assert all("l2_sp" in "".join(line) for line in steps)
    assert not all(any("auxiliary" in key for key in line) for line in steps)

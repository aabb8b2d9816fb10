"""Numbers do not depend on how a step is split: into forward passes, or over processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmtune.training.trainer import Trainer
from tests.tiny import TINY, prepared_of, trainer_of, write_rows

STEP = ("train.batch_rows=16", "train.max_steps=8", "model.dropout=0")
MIXES = {
    "plain": (),
    "smoothed": ("train.label_smoothing=0.1",),
    "weighted": ("train.class_weights={bad: 3.0, good: 0.5}",),
    "balanced and smoothed": ("train.class_weights=balanced", "train.label_smoothing=0.2"),
    "random order": ("train.order=random",),
    "by tokens": ("train.batch_rows=null", "train.batch_tokens=150"),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def train(folder: Path, *words: str) -> Trainer:
    trainer = trainer_of(prepared_of(*TINY, *words), folder)
    trainer.fit()
    return trainer


def gap(one: Trainer, two: Trainer) -> float:
    mine, theirs = dict(one.composite.named_parameters()), dict(two.composite.named_parameters())
    return max(float((mine[name] - theirs[name]).detach().abs().max()) for name in mine)


@pytest.mark.parametrize("mix", MIXES)
def test_one_pass_equals_four(mix: str, rows: list[str], tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", *rows, *STEP, *MIXES[mix])
    split = train(tmp_path / "split", *rows, *STEP, *MIXES[mix], "train.micro_rows=4")
    assert len(split.feed.at(0)) >= 3
    assert gap(whole, split) < 2e-6


def test_checkpointing_activations_changes_nothing(rows: list[str], tmp_path: Path) -> None:
    usual = train(tmp_path / "usual", *rows, *STEP)
    saved = train(tmp_path / "saved", *rows, *STEP, "train.gradient_checkpointing=true")
    assert gap(usual, saved) < 2e-6


def test_same_seed_same_weights_other_seed_other_weights(rows: list[str], tmp_path: Path) -> None:
    words = [*rows, *STEP[:2]]
    one, two, other = (train(tmp_path / name, *words, seed) for name, seed in
                       (("one", "seed=3"), ("two", "seed=3"), ("other", "seed=4")))  # fmt: skip
    assert gap(one, two) == 0.0
    assert gap(one, other) > 0.01


@pytest.mark.dist
def test_two_processes_equal_one(rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    from llmtune.cli import main

    monkeypatch.chdir(tmp_path)
    words = [*TINY, *rows, *STEP, "train.micro_rows=4", "train.eval_every=4"]
    assert main(["train", *words, "run.dir=one"]) == 0
    assert main(["train", *words, "run.dir=two", "hardware.processes=2"]) == 0
    one, two = (load_file(tmp_path / name / "checkpoints/step-000008/model.safetensors") for name in ("one", "two"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-6
    assert torch.isfinite(one["model.classifier.weight"]).all()
    lines = [(tmp_path / name / "predictions.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(lines[0]) == len(lines[1]) == 12

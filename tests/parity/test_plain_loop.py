"""The loop gives what bare torch gives on the same rows, and transformers' Trainer on the same batches."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.model.backbone import load_model
from llmtune.preflight import Prepared
from llmtune.training.trainer import Trainer
from tests.tiny import TINY, prepared_of, trainer_of, write_rows

LOOP = Path(__file__).parents[2] / "scripts" / "plain_loop.py"


def plain_loop() -> Any:
    spec = importlib.util.spec_from_file_location("plain_loop", LOOP)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    words = write_rows(tmp_path_factory.mktemp("rows"))
    return prepared_of(*TINY, *words, "train.batch_rows=16", "train.max_steps=10", "model.dropout=0")


@pytest.fixture(scope="module")
def trained(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    trainer = trainer_of(prepared, tmp_path_factory.mktemp("run") / "run")
    trainer.fit()
    return trainer


def fresh_model(prepared: Prepared) -> Any:
    config, task = prepared.config, prepared.task
    return load_model(
        config.model, task.model_class(), prepared.tokenizer, seed=config.seed, **task.config_values()
    ).model


def steps_of(trainer: Trainer, num_steps: int) -> list[dict[str, torch.Tensor]]:
    """Each step as one padded batch."""
    batches, feed = [], trainer.feed.feeds["task"]
    for step in range(num_steps):
        batch = feed.table.batch(feed.order.rows_at(step), feed.collate_targets)
        batches.append({**batch.views["clean"], "labels": batch.targets["label"]})
    return batches


def largest_gap(model: torch.nn.Module, other: torch.nn.Module) -> float:
    mine, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    assert mine.keys() == theirs.keys()
    return max(float((mine[name] - theirs[name]).detach().abs().max()) for name in mine)


def test_loop_equals_bare_torch(prepared: Prepared, trained: Trainer) -> None:
    model = fresh_model(prepared)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    losses = plain_loop().fit(
        model, steps_of(trained, 10), lr_at=lambda step: trained.peak_lr * trained.schedule(step),
        weight_decay=0.01, clip_norm=1.0, num_labels=2,
    )  # fmt: skip
    moved = max(float((value.detach() - start[name]).abs().max()) for name, value in model.named_parameters())
    assert moved > 1e-3
    assert len(losses) == 10
    assert largest_gap(trained.composite.model, model) < 2e-6


def test_loop_equals_transformers_trainer(prepared: Prepared, trained: Trainer, tmp_path: Path) -> None:
    from transformers import Trainer as TheirTrainer
    from transformers import TrainingArguments

    model = fresh_model(prepared)
    batches = steps_of(trained, 10)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=10, per_device_train_batch_size=1, learning_rate=trained.peak_lr, warmup_steps=1,
        weight_decay=0.01, max_grad_norm=1.0, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
        remove_unused_columns=False, logging_steps=100, adam_beta2=0.999,
    )  # fmt: skip

    class SameBatches(TheirTrainer):
        def get_train_dataloader(self) -> Any:
            return batches

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, trained.schedule)
            return self.lr_scheduler

    SameBatches(model, arguments, train_dataset=[0] * 10).train()
    assert largest_gap(trained.composite.model, model) < 2e-6

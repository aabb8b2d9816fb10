"""When the loop evaluates, saves, stops; what it does with NaN, with too little memory, with a signal."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.core.errors import Diverged, LlmtuneError
from llmtune.core.types import Loss
from llmtune.preflight import Prepared
from llmtune.run.checkpoint import CheckpointStore
from llmtune.run.metrics_log import read_metrics
from llmtune.training.evaluation import Evaluation
from llmtune.training.trainer import Trainer
from tests.tiny import TINY, prepared_of, trainer_of, write_rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def prepare(rows: list[str], *words: str) -> Prepared:
    return prepared_of(*TINY, *rows, "train.batch_rows=10", *words)


def steps_of(folder: Path, split: str) -> list[int]:
    return [record["step"] for record in read_metrics(folder / "metrics.jsonl") if record["split"] == split]


@pytest.mark.parametrize(("num_steps", "every"), [(6, 2), (7, 2), (5, 5), (5, 9), (4, 1)])
def test_last_step_is_evaluated_and_saved_once(num_steps: int, every: int, rows: list[str], tmp_path: Path) -> None:
    clocks = (f"train.max_steps={num_steps}", f"train.eval_every={every}", "train.save_every=3", "train.keep=9")
    trainer = trainer_of(prepare(rows, *clocks), tmp_path / "run")
    trainer.fit()
    expected = sorted({*range(every, num_steps + 1, every), num_steps})
    assert steps_of(tmp_path / "run", "validation") == expected
    saved = sorted(int(path.name[5:]) for path in (tmp_path / "run/checkpoints").glob("step-*"))
    assert saved == sorted({*range(3, num_steps + 1, 3), num_steps})


def scripted(trainer: Trainer, scores: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations that give `scores`, one after the other."""
    left = list(scores[trainer.state.evals_without_gain if trainer.state.step == 0 else trainer.state.step // 2 :])

    def evaluate(model: Any, feed: Any, machine: Any, task: Any, *args: Any, **kwargs: Any) -> Evaluation:
        return Evaluation({"loss": 1.0, task.metric: left.pop(0)}, None, 0.0, 0)  # type: ignore[arg-type]

    monkeypatch.setattr("llmtune.training.trainer.evaluate", evaluate)


PATIENCE = [
    # metric, scores at steps 2, 4, ...; best step; last step
    ("accuracy", [0.5, 0.6, 0.55, 0.6, 0.7, 0.1], 4, 8),
    ("accuracy", [0.5, 0.4, 0.6, 0.5, 0.4, 0.9], 6, 10),
    ("loss", [0.9, 0.8, 0.85, 0.7, 0.75, 0.72, 0.1], 8, 12),
    ("accuracy", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 12, 12),
]


@pytest.mark.parametrize(("metric", "scores", "best", "last"), PATIENCE)
@pytest.mark.parametrize("resumed_at", [None, 6])
def test_best_and_patience(
    metric: str, scores: list[float], best: int, last: int, resumed_at: int | None, rows: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    words = (f"task.metric={metric}", "train.patience=2", "train.eval_every=2", "train.save_every=2", "train.keep=9")
    if metric == "loss":
        monkeypatch.setattr("llmtune.task.classification.ClassificationTask.score", lambda *_: {})
    prepared = prepare(rows, *words, "train.max_steps=12")
    trainer = trainer_of(prepared, tmp_path / "run")
    scripted(trainer, scores, monkeypatch)
    trainer.fit()
    assert (trainer.state.best_step, trainer.state.step) == (best, last)
    assert trainer.state.best_score == scores[best // 2 - 1]
    if resumed_at is not None:
        again = trainer_of(prepared, tmp_path / "run")
        store = CheckpointStore(tmp_path / "run/checkpoints", keep=9)
        for path in store.folder.glob("step-*"):
            if int(path.name[5:]) > resumed_at:
                (path / "manifest.json").unlink()
        again.resume(store.newest_good(lambda line: None))
        assert again.state.step == resumed_at
        scripted(again, scores, monkeypatch)
        again.fit()
        assert (again.state.best_step, again.state.step) == (best, last)


def poison(trainer: Trainer, at_step: int, value: float) -> None:
    """The loss is `value` at one step."""
    part = trainer.composite.objectives["supervised"]
    real = part.loss

    def loss(trunk: Any, batch: Any) -> Loss:
        found = real(trunk, batch)
        return found._replace(total=found.total * value) if trainer.state.step == at_step else found

    part.loss = loss  # type: ignore[method-assign]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stops_before_the_weights_are_touched(value: float, rows: list[str], tmp_path: Path) -> None:
    prepared = prepare(rows, "train.max_steps=6", "train.save_every=2")
    trainer = trainer_of(prepared, tmp_path / "run")
    poison(trainer, 4, value)
    with pytest.raises(
        Diverged, match=r"step 5: the loss of supervised is (nan|inf).*checkpoints and best model are untouched"
    ) as end:
        trainer.fit()
    assert end.value.exit_code == 3
    saved = CheckpointStore(tmp_path / "run/checkpoints", keep=1).newest_good(print)
    assert saved is not None
    assert saved.step == 4
    for name, weight in saved.tensors("model").items():
        assert torch.equal(weight, trainer._weights()[name])


def test_a_step_that_the_scaler_skips_keeps_the_log_in_json(
    rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16: an infinite gradient is passed over, not averaged in."""
    trainer = trainer_of(prepare(rows, "train.max_steps=4", "train.log_every=2"), tmp_path / "run")
    real, stepper = trainer.stepper.run, trainer.stepper

    def run(step: int, *arguments: Any) -> Any:
        result = real(step, *arguments)
        return dataclasses.replace(result, grad_norm=float("inf")) if step == 1 and result else result

    monkeypatch.setattr(stepper, "run", run)
    trainer.fit()
    text = (tmp_path / "run/metrics.jsonl").read_text()
    assert "Infinity" not in text
    train = [json.loads(line) for line in text.splitlines() if '"train"' in line]
    assert [record.get("skipped_steps") for record in train] == [1, None]


def test_a_score_that_is_no_number_is_never_best(
    rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(prepare(rows, "train.max_steps=6", "train.eval_every=2"), tmp_path / "run")
    scripted(trainer, [float("nan"), 0.5, float("nan")], monkeypatch)
    trainer.fit()
    assert (trainer.state.best_step, trainer.state.best_score) == (4, 0.5)


def test_trial_leaves_no_trace(rows: list[str], tmp_path: Path) -> None:
    from llmtune.model.backbone import load_model

    prepared = prepare(rows)
    torch.manual_seed(5)
    trainer = trainer_of(prepared, tmp_path / "run")
    config, task = prepared.config, prepared.task
    fresh = load_model(config.model, task.model_class(), prepared.tokenizer, seed=1, **task.config_values()).model
    for name, weight in fresh.named_parameters():
        assert torch.equal(weight, trainer.composite.model.get_parameter(name))
    assert not trainer.stepper.optimizer.state


def test_too_little_memory_means_more_passes_and_the_same_steps(
    rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmtune.model.composite import Composite

    prepared = prepare(rows, "train.max_steps=5", "model.dropout=0")
    usual = trainer_of(prepared, tmp_path / "usual")
    usual.fit()
    real = Composite.forward

    def forward(self: Composite, batch: Any, *args: Any) -> Any:
        if batch.padded_tokens > 120:
            raise torch.OutOfMemoryError("CUDA out of memory (said by a test)")
        return real(self, batch, *args)

    monkeypatch.setattr(Composite, "forward", forward)
    small = trainer_of(prepared, tmp_path / "small")
    assert small.feed.micro_tokens <= 120
    small.fit()
    assert small.state.step == usual.state.step
    assert len(small.feed.at(0)) > len(usual.feed.at(0))
    gaps = [(a - b).detach().abs().max() for a, b in zip(usual.composite.parameters(), small.composite.parameters())]
    assert float(max(gaps)) < 2e-6


def test_memory_that_no_pass_fits_in_is_told(rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmtune.model.composite import Composite

    def forward(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory (said by a test)")

    monkeypatch.setattr(Composite, "forward", forward)
    with pytest.raises(LlmtuneError, match=r"out of memory with 1 rows of \d+ tokens.*data.max_tokens="):
        trainer_of(prepare(rows), tmp_path / "run")


def test_max_time_ends_well(rows: list[str], tmp_path: Path) -> None:
    trainer = trainer_of(prepare(rows, "train.max_steps=100000", "train.max_time=1s"), tmp_path / "run")
    trainer.fit()
    assert trainer.ended_by == "max_time"
    assert trainer.state.step < 100000
    assert steps_of(tmp_path / "run", "validation")[-1] == trainer.state.step


def test_disk_budget_is_kept(rows: list[str], tmp_path: Path) -> None:
    prepared = prepare(rows, "train.max_steps=30", "train.save_every=1", "train.eval_every=1", "train.ema=0.9")
    trainer = trainer_of(prepared, tmp_path / "run")
    largest = 0
    real = trainer.store.save  # type: ignore[union-attr]

    def save(*arguments: Any) -> Path:
        nonlocal largest
        done = real(*arguments)
        size = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*.safetensors"))
        largest = max(largest, size)
        return done

    trainer.store.save = save  # type: ignore[method-assign, union-attr]
    trainer.fit()
    overhead = 1.15  # names and shapes in front of each file; small here, and nothing beside real models
    assert largest <= prepared.disk_budget * overhead


def test_average_of_weights_is_what_is_kept(rows: list[str], tmp_path: Path) -> None:
    trainer = trainer_of(prepare(rows, "train.max_steps=8", "train.ema=0.5", "train.eval_every=null"), tmp_path / "run")
    trainer.fit()
    best = CheckpointStore(tmp_path / "run/checkpoints", keep=1).best(trainer.state.best_step or 0)
    name = "model.classifier.weight"
    assert torch.equal(best.tensors("model")[name], trainer.average.average[name])  # type: ignore[union-attr]
    assert not torch.equal(best.tensors("model")[name], trainer._weights()[name])


def test_metrics_hold_no_clock(rows: list[str], tmp_path: Path) -> None:
    trainer = trainer_of(prepare(rows, "train.max_steps=4"), tmp_path / "run")
    trainer.fit()
    for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines():
        assert not {"seconds", "tokens_per_second", "time"} & set(json.loads(line))


def test_frozen_weights_stay_to_the_bit(rows: list[str], tmp_path: Path) -> None:
    words = (
        "freeze_policy=bottom_layers",
        "freeze_policy.layers=1",
        "train.max_steps=12",
        "optimizer.weight_decay=0.5",
    )
    trainer = trainer_of(prepare(rows, *words), tmp_path / "run")
    before = {name: weight.detach().clone() for name, weight in trainer.composite.named_parameters()}
    trainer.fit()
    frozen = trainer.freezing.layers.at("embeddings", "layer 0")
    for name, weight in trainer.composite.named_parameters():
        assert torch.equal(before[name], weight) == (name in frozen), name
    layer = trainer.composite.model.bert.encoder.layer
    assert not layer[0].training
    assert layer[1].training

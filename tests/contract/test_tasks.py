"""Every shipped task, found by reading the folder: it trains, scores, tells, and opens again as it was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmtune import cli
from llmtune.config.locate import conf_dir
from llmtune.data.rows import read_splits
from llmtune.inference.predictor import Predictor
from llmtune.inference.run_folder import find_model, roles_of, settings_of
from llmtune.training.evaluation import evaluate
from tests.tiny import prepared_of, trainer_of

WITHOUT_PREDICTIONS = ("masked_lm", "causal_lm", "denoising", "next_sentence")
"""tasks whose models are used by others"""
TASKS = sorted(path.stem for path in (Path(conf_dir()) / "task").glob("*.yaml"))
SMALL = (
    "data.limit=48", "data.max_tokens=64", "data.max_truncated_share=1", "hardware.device=cpu", "hardware.threads=1",
    "train.log_every=1", "optimizer.lr=0.003", "model.dropout=0",
)  # fmt: skip
NEEDS = {
    "chat": ["data.max_tokens=256"],  # answers are never cut, and prompts leave room for them
    "code": ["data.max_tokens=128"],  # programs are never cut
    "instruct": ["data.max_tokens=128"],
    "embedding": ["task.loss=in_batch"],
    "kto": ["data.max_tokens=128"],  # answers are never cut
    "maths": ["data.max_tokens=128"],
    "ner": ["data.max_tokens=32"],  # several windows
    "preference": ["data.max_tokens=128"],
    "qa": ["data.max_tokens=48"],
    "summary": ["task.max_new_tokens=8"],
    "title": ["task.max_new_tokens=8"],
    "tools": ["data.max_tokens=384"],
    "translate": ["task.max_new_tokens=8"],
}


def words_for(task: str) -> list[str]:
    return [f"task={task}", *SMALL, *NEEDS.get(task, [])]


@pytest.mark.parametrize("task", TASKS)
def test_a_step_is_the_same_however_it_is_split(task: str, tmp_path: Path) -> None:
    results = []
    for micro_rows in (12, 4):
        words = ("train.batch_rows=12", "train.max_steps=2", f"train.micro_rows={micro_rows}")
        trainer = trainer_of(prepared_of(*words_for(task), *words), tmp_path / str(micro_rows))
        for module in trainer.composite.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        batches = trainer.feed.at(0)
        assert len(batches) >= 12 // micro_rows
        results.append(trainer.stepper.run(0, batches, 1e-3, lambda: False))
    whole, split = results
    assert whole.grad_norm > 0
    assert split.grad_norm == pytest.approx(whole.grad_norm, rel=2e-4)
    assert split.sums == pytest.approx(whole.sums, rel=2e-5)


@pytest.mark.parametrize("task", [task for task in TASKS if task not in WITHOUT_PREDICTIONS])
def test_a_trained_model_opens_as_it_was_and_reads_rows_as_training_did(task: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("train.max_steps=3", "train.batch_rows=12", "train.verify_model=here", f"run.dir={run}")
    assert cli.main(["train", *words_for(task), *words]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["metric"] in result["validation"]
    assert all(math.isfinite(value) for value in result["test"].values())

    place = find_model(str(run))
    config = settings_of(place, [])
    predictor = Predictor(place, config)
    roles = roles_of(predictor.task, place.card["columns"])
    raw = read_splits(config.data, roles, only=["test"])
    targets = predictor.task.read_labels(raw, None, None).targets["test"]
    again, loss = predictor.run(raw.splits["test"], targets)
    scores = predictor.task.score(again)
    assert {**loss.named, **scores} == pytest.approx(result["test"], rel=1e-3, abs=1e-4)
    _tells(predictor.task, again)
    # what is to be found out plays no part in a prediction
    known = {role.name for role in roles if role.known_before}
    blind = {name: raw.splits["test"][name][:] for name in raw.splits["test"].column_names if name in known}
    told = [row for chunk in again.chunks() for row in predictor.task.decode(chunk)]
    assert _comparable(predictor.predict(blind)) == _comparable(told)


def _tells(task: Any, predictions: Any) -> None:
    """What is told of rows is JSON, with the fields and columns that the task names."""
    for chunk in predictions.chunks(5):
        for decoded in task.decode(chunk):
            assert set(decoded) == set(task.fields)
            json.dumps(decoded)
            assert len(task.table(decoded)) == len(task.table_names)
    report = task.judge(predictions, 3)
    assert len(report["worst"]) <= 3
    json.dumps(report)


def _comparable(told: list[dict[str, Any]]) -> Any:
    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return round(value, 3)
        if isinstance(value, dict):
            return {key: rounded(inner) for key, inner in value.items()}
        return [rounded(inner) for inner in value] if isinstance(value, list) else value

    return [rounded(row) for row in told]


@pytest.mark.parametrize("task", [task for task in TASKS if task not in WITHOUT_PREDICTIONS])
def test_scores_do_not_hang_on_how_rows_are_batched(task: str, tmp_path: Path) -> None:
    trainer = trainer_of(prepared_of(*words_for(task), "train.max_steps=1"), tmp_path)
    found = []
    for most in (8192, 200):
        trainer.validation.max_tokens = most
        done = evaluate(trainer.composite.model, trainer.validation, trainer.machine, trainer.task)
        found.append(done)
    whole, split = found
    # an area under a curve counts pairs: rounding turns a few round
    assert split.scores == pytest.approx(whole.scores, rel=1e-3, abs=5e-3)
    for row in range(len(whole.predictions)):
        np.testing.assert_allclose(
            split.predictions.outcomes.get(row), whole.predictions.outcomes.get(row), rtol=1e-3, atol=1e-4
        )

"""Every part on every shelf, found by reading the folders: it builds, and keeps what its protocol promises."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmtune.config.compose import run_job
from llmtune.config.locate import conf_dir
from llmtune.core.errors import UserError
from llmtune.scoring.predictions import Outcomes, Predictions
from llmtune.training.trainer import Trainer
from tests.tiny import ELSEWHERE, TINY, choice_of, prepared_of, together, trainer_of, write_rows

CONF = Path(conf_dir())
GROUPS = ("objective", "augmentation", "freeze_policy", "adapter", "optimizer", "balance", "sampling")


NEEDS = {("freeze_policy", "adapters_only"): ["adapter=lora"]}
"""what must be chosen beside an option"""


def options(group: str) -> list[str]:
    """Names of a group's options, but those that this machine refuses."""
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    return [name for name in names if f"{group}={name}" not in ELSEWHERE]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def made(folder: Path, *words: str) -> Trainer:
    return trainer_of(prepared_of("model.dropout=0", *words, "train.batch_rows=12", "train.max_steps=2"), folder)


@pytest.mark.parametrize("task", options("task"))
def test_every_task_composes_with_every_option(task: str) -> None:
    """Each option of each group once, those of all groups in turns beside each other."""
    found = {group: options(group) for group in (*GROUPS, "model", "hardware")}
    for turn in range(max(map(len, found.values()))):
        chosen = [f"{group}={names[turn % len(names)]}" for group, names in found.items()]
        extra = ["model.path=FOLDER"] if "model=pretrained" in chosen else []
        assert run_job("check", [f"task={task}", *together(*chosen), *extra], lambda config, cfg, typed: 0) == 0


@pytest.mark.parametrize(("group", "option"), [
    (group, option) for group in GROUPS for option in options(group)
])  # fmt: skip
def test_every_part_trains_two_steps(group: str, option: str, rows: list[str], tmp_path: Path) -> None:
    trainer = made(tmp_path / "run", *TINY, *rows, *choice_of(group, option))
    before = {name: weight.detach().clone() for name, weight in trainer.composite.named_parameters()}
    trainer.fit()
    assert trainer.state.step == 2
    assert any(not torch.equal(before[name], weight) for name, weight in trainer.composite.named_parameters())


@pytest.mark.parametrize("word", ELSEWHERE)
def test_what_this_machine_can_not_do_is_refused_with_a_reason(word: str, rows: list[str], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine may have what it takes")
    with pytest.raises(UserError, match=word.partition("=")[2]) as error:
        made(tmp_path / "run", *TINY, *rows, word)
    assert "; type " in str(error.value)


@pytest.mark.parametrize("option", options("objective"))
def test_objective_is_the_same_however_a_step_is_split(option: str, rows: list[str], tmp_path: Path) -> None:
    results = []
    for micro_rows in (12, 4):
        words = ("train.batch_rows=12", "train.max_steps=2", f"train.micro_rows={micro_rows}")
        prepared = prepared_of(*TINY, *rows, "model.dropout=0", *choice_of("objective", option), *words)
        trainer = trainer_of(prepared, tmp_path / str(micro_rows))
        for module in trainer.composite.modules():
            if isinstance(module, torch.nn.Dropout):  # of an objective that can't be without
                module.p = 0.0
        batches = trainer.feed.at(0)
        # one that stands for several has them by name below its own
        name, part = next(item for item in trainer.composite.objectives.items() if item[0].split("/")[0] == option)
        assert sum(batch.is_read_by(part.feed) for batch in batches) == 12 // micro_rows
        results.append(trainer.stepper.run(0, batches, 1e-3, lambda: False))
    whole, split = results
    assert whole.grad_norm > 0
    assert split.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
    assert split.sums == pytest.approx(whole.sums, rel=1e-5)
    assert whole.sums[f"{name}/count"] > 0


@pytest.mark.parametrize("option", options("freeze_policy"))
def test_freeze_policy_is_pure_and_names_what_is_there(option: str, rows: list[str], tmp_path: Path) -> None:
    trainer = made(tmp_path / "run", *TINY, *rows, *choice_of("freeze_policy", option))
    policy, layers = trainer.freezing.policy, trainer.freezing.layers
    names = {name for name, _ in trainer.composite.named_parameters()}
    for step in (0, 1, 0):
        assert policy.trainable(layers, step) == policy.trainable(layers, step) <= names
    assert policy.changes or policy.trainable(layers, 0) == policy.trainable(layers, 10**6)
    trains = {name for name, weight in trainer.composite.named_parameters() if weight.requires_grad}
    assert trains == policy.trainable(layers, 0)


@pytest.mark.parametrize("option", options("optimizer"))
def test_optimizer_holds_every_parameter_once(option: str, rows: list[str], tmp_path: Path) -> None:
    trainer = made(tmp_path / "run", *TINY, *rows, f"optimizer={option}", "freeze_policy=head_only",
                   "optimizer.layer_decay=0.5")  # fmt: skip
    groups = trainer.stepper.optimizer.param_groups
    held = list(itertools.chain.from_iterable(group["names"] for group in groups))
    assert sorted(held) == sorted(name for name, _ in trainer.composite.named_parameters())
    factors = {name: group["factor"] for group in groups for name in group["names"]}
    assert factors["model.classifier.weight"] == 1.0
    assert factors["model.bert.encoder.layer.1.output.dense.weight"] == 0.5
    assert factors["model.bert.embeddings.word_embeddings.weight"] == 0.125
    decayed = {name for group in groups if group["weight_decay"] for name in group["names"]}
    assert not any("LayerNorm" in name or name.endswith("bias") for name in decayed)


RAW = {
    "single_label": ({"data.columns.label": "one"}, "accuracy"),
    "multi_label": ({"data.columns.label": "several"}, "f1_micro"),
    "regression": ({"data.columns.label": "score"}, "spearman"),
}


@pytest.mark.parametrize("problem", RAW)
def test_task_encodes_and_decodes_round(problem: str, tmp_path: Path) -> None:
    import json

    rng = np.random.default_rng(0)
    labels = ["red", "green", "blue"]
    lines: list[dict[str, Any]] = []
    for number in range(60):
        several = [name for name in labels if rng.random() < 0.5] or ["red"]
        lines.append({"text": f"row {number} of words", "one": labels[number % 3], "several": several,
                      "score": float(rng.random() * 5)})  # fmt: skip
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    columns, metric = RAW[problem]
    words = [f"{key}={value}" for key, value in columns.items()]
    prepared = prepared_of(*TINY, f"data.train={file}", "data.columns.text=text", *words, "data.test_share=0")
    task = prepared.task
    assert (task.problem_type, task.metric, task.mode) == (problem, metric, "max")
    rows = prepared.splits["train"]
    targets = rows["target"][:]
    outcomes = Outcomes(len(rows))
    outcomes.put(range(len(rows)), list(_perfect_logits(problem, targets, task.num_outputs)))
    predictions = Predictions(rows, outcomes)
    assert task.score(predictions)[metric] == pytest.approx(1.0)
    decoded = [row["label"] for chunk in predictions.chunks(7) for row in task.decode(chunk)]
    given = [json.loads(label) for label in rows["label"][:]]
    if problem == "regression":
        assert decoded == pytest.approx([float(value) for value in given])
    else:
        assert decoded == [sorted(value) if isinstance(value, list) else value for value in given]


def _perfect_logits(problem: str, targets: list[Any], width: int) -> np.ndarray:
    if problem == "regression":
        return np.array(targets, dtype=np.float32)[:, None]
    logits = np.full((len(targets), width), -5.0, dtype=np.float32)
    for row, target in enumerate(targets):
        logits[row, target] = 5.0
    return logits

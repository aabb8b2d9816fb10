"""distillation and self_distillation: the papers' losses, what is compared with what, the cache, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from llmtune.core.errors import UserError
from llmtune.model.trunk import Trunk
from llmtune.objective.distilling import ANSWERS, AnswersOfRows, DistillationLoss
from llmtune.objective.layer_pairs import layer_pairs
from llmtune.objective.live_teacher import LiveTeacher
from llmtune.objective.matching import Matching
from llmtune.objective.own_teacher import SelfDistillationLoss
from llmtune.objective.soft_targets import distance_by_row
from llmtune.training.trainer import Trainer
from tests.tiny import TINY, prepared_of, teacher, trainer_of, write_rows
from tests.unit.objective.small import (
    NUM_CLASSES,
    PROBLEMS,
    assert_same_gradients,
    batch_of,
    gradients_of,
    network_of,
    parts_of,
    settings_of,
    task_of,
)

BESIDE = ("objective=[supervised,distillation]", "train.batch_rows=12", "train.max_steps=2")


def softened(problem: str, own: torch.Tensor, wanted: torch.Tensor, t: float) -> torch.Tensor:
    """The distances written out."""
    if problem == "regression":
        return (own - wanted).square().sum()
    if problem == "multi_label":
        p, q = (wanted / t).sigmoid(), (own / t).sigmoid()
        return t**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    p, q = (wanted / t).softmax(-1), (own / t).softmax(-1)
    return t**2 * (p * (p / q).log()).sum()


@pytest.mark.parametrize("problem", PROBLEMS)
def test_answers_are_softened_and_the_teachers_order_is_undone(problem: str) -> None:
    network, batch = network_of("bert", problem), batch_of(problem)
    wanted = torch.randn(9, NUM_CLASSES[problem], generator=torch.Generator().manual_seed(3))
    order = list(reversed(range(NUM_CLASSES[problem])))
    settings = settings_of("distillation", temperature=2.5, answers=0.7)
    answers = AnswersOfRows(problem, wanted.numpy(), order, 2.5)
    part = DistillationLoss(lambda step: 1.0, settings, answers, (None, None), None)
    part.prepare(batch)
    loss = part.loss(Trunk(network), batch)
    found = gradients_of(network, loss.total)
    total = 0.7 * softened(problem, network(**batch.views["clean"]).logits, wanted[:6, order], 2.5)
    torch.testing.assert_close(loss.total, total)
    assert loss.count == part.count(batch) == 6 * (3 if problem == "multi_label" else 1)
    assert_same_gradients(found, gradients_of(network, total))


def test_hintons_loss_is_the_sum_of_two_objectives() -> None:
    """alpha CE + (1 - alpha) T^2 KL has the gradient of alpha CE + (1 - alpha) T^2 CE with soft targets."""
    own, wanted = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    soft = 9.0 * F.cross_entropy(own / 3, (wanted / 3).softmax(-1), reduction="sum")
    (expected,) = torch.autograd.grad(soft, own)
    (found,) = torch.autograd.grad(distance_by_row("single_label", own, wanted, 3.0).sum(), own)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("wide", [False, True])
def test_layers_are_compared_over_real_tokens(wide: bool) -> None:
    network, other, batch = network_of("bert"), network_of("bert"), batch_of()
    for both in (network, other):
        both.set_attn_implementation("eager")
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.1)
    settings = settings_of("distillation", answers=0, hidden_states=0.4, attentions=3.0, layers="1:2,2:1")
    matching = Matching([[(1, 2), (2, 1)]], student_width=16, teacher_width=16, seed=0)
    if wide:
        matching.projections = torch.nn.ModuleList(torch.nn.Linear(16, 16, bias=False) for _ in range(2))
    live = LiveTeacher(other.eval(), settings.wants, None)
    part = DistillationLoss(lambda step: 1.0, settings, None, (matching, None), live)
    assert len(list(part.parameters())) == (2 if wide else 0)
    loss = part.loss(Trunk(network, part.wants), batch)
    found = gradients_of(network, loss.total)
    assert all(weight.grad is None for weight in other.parameters())
    inputs, asked = batch.views["clean"], {"output_hidden_states": True, "output_attentions": True}
    mine, wanted = network.bert(**inputs, **asked), other.bert(**inputs, **asked)
    total = torch.zeros(())
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        for number, (i, j) in enumerate([(1, 2), (2, 1)]):
            h, g = mine.hidden_states[i][row, :length], wanted.hidden_states[j][row, :length]
            h = matching.projections[number](h) if matching.projections is not None else h
            total = total + 0.4 / 2 * (h - g).square().sum() / g.square().sum()
            a, b = mine.attentions[i - 1][row, :, :length], wanted.attentions[j - 1][row, :, :length]
            total = total + 3.0 / 2 * (a - b).square().sum() / (2 * length)
    torch.testing.assert_close(loss.total, total.detach(), check_stride=False)
    assert_same_gradients(found, gradients_of(network, total))


def test_layers_are_paired() -> None:
    assert layer_pairs("uniform", 2, 6) == [(1, 3), (2, 6)]
    assert layer_pairs("uniform", 4, 6) == [(1, 2), (2, 3), (3, 5), (4, 6)]
    assert layer_pairs("uniform", 6, 2) == [(3, 1), (6, 2)]
    assert layer_pairs("last", 2, 6) == [(1, 5), (2, 6)]
    assert layer_pairs("0:0, 2:5", 2, 6) == [(0, 0), (2, 5)]
    with pytest.raises(ValueError, match="2:7, but the student has 2 layers and the teacher 6"):
        layer_pairs("2:7", 2, 6)


def run(folder: Path, *words: str) -> Trainer:
    trainer = trainer_of(prepared_of(*TINY, *words), folder)
    trainer.fit()
    return trainer


def test_the_teachers_answers_are_its_logits_kept_for_later_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForSequenceClassification

    words = [*write_rows(tmp_path), *BESIDE, f"objective.distillation.teacher={teacher()}",
             f"data.cache_dir={tmp_path / 'cache'}"]  # fmt: skip
    trainer = run(tmp_path / "one", *words)
    network = AutoModelForSequenceClassification.from_pretrained(teacher()).eval()
    batch = trainer.feed.at(0)[0]
    with torch.no_grad():
        expected = network(**batch.views["clean"]).logits
    torch.testing.assert_close(batch.targets[ANSWERS], expected, rtol=1e-4, atol=1e-5)
    kept = trainer.composite.objectives["distillation"].answers.logits_NC
    assert isinstance(kept, np.memmap)
    assert not any("teacher" in name for name in trainer.composite.state_dict())
    monkeypatch.setattr("llmtune.objective.teacher.Teacher.open", lambda *_, **__: pytest.fail("it was opened again"))
    run(tmp_path / "two", *words, "seed=9")


def test_the_teacher_may_be_a_run_with_another_vocabulary_and_labels_in_another_order(tmp_path: Path) -> None:
    from llmtune.cli import main

    rows = write_rows(tmp_path)
    beside = ["data.label_names=[good,bad]", "model.tokenizer.vocab_size=90"]
    assert main(["train", *TINY, *rows, *beside, "train.max_steps=2", f"run.dir={tmp_path / 'teacher'}"]) == 0
    words = [*rows, *BESIDE, f"objective.distillation.teacher={tmp_path / 'teacher'}"]
    part = run(tmp_path / "run", *words).composite.objectives["distillation"]
    assert part.answers.order == [1, 0]
    lines = (tmp_path / "teacher/predictions.jsonl").read_text().splitlines()
    assert len(lines) == 12
    same = run(tmp_path / "test_rows", *[word for word in words if not word.startswith("data.")],
               f"data.train={tmp_path / 'test.jsonl'}", "data.validation_share=0", "data.test_share=0")  # fmt: skip
    kept = torch.from_numpy(np.array(same.composite.objectives["distillation"].answers.logits_NC)).softmax(-1)
    told = [list(json.loads(line)["probabilities"].values()) for line in lines]
    torch.testing.assert_close(kept, torch.tensor(told), rtol=1e-4, atol=1e-5)


def test_hidden_states_and_attention_train(tmp_path: Path) -> None:
    words = ["objective.distillation.hidden_states=1", "objective.distillation.attentions=1", "model.attention=eager",
             f"objective.distillation.teacher={teacher()}", "model.architecture.hidden_size=32",
             "model.architecture.num_hidden_layers=1"]  # fmt: skip
    trainer = run(tmp_path / "run", *write_rows(tmp_path), *BESIDE, *words)
    names = {name for name, _ in trainer.composite.named_parameters() if name.startswith("own.distillation.")}
    assert names == {"own.distillation.matching.projections.0.weight"}
    held = trainer.composite.objectives["distillation"].teacher.model
    assert all(weight.grad is None and not weight.requires_grad for weight in held.parameters())


def no_classifier(folder: Path) -> str:
    shutil.copytree(teacher(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    return str(folder)


def other_labels(folder: Path) -> str:
    shutil.copytree(teacher(), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "warm", "1": "cold"}, "label2id": {"warm": 0, "cold": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_what_can_not_teach_is_refused_before_weights_are_loaded(tmp_path: Path) -> None:
    rows = [*write_rows(tmp_path), *BESIDE]
    where = "objective.distillation.teacher"
    (tmp_path / "numbers.jsonl").write_text("\n".join(
        json.dumps({"text": f"row {i}", "label": i / 7}) for i in range(40)))  # fmt: skip
    numbers = [*BESIDE, f"data.train={tmp_path / 'numbers.jsonl'}", f"{where}={teacher()}"]
    faults: dict[str, list[str]] = {
        r"no teacher is given.*objective\.distillation\.teacher=DIR": rows,
        r"no folder \./nowhere": [*rows, f"{where}=./nowhere"],
        r"holds no model of llmtune": [*rows, f"{where}={tmp_path}"],
        r"knows the labels warm, cold; this task has bad, good": [*rows, f"{where}={other_labels(tmp_path / 'other')}"],
        r"is no classifier \(BertModel\)": [*rows, f"{where}={no_classifier(tmp_path / 'none')}"],
        r"was trained for single_label, this task is regression": numbers,
        r"has another vocabulary, so its hidden_states are of other tokens.*hidden_states=0": [
            *rows, f"{where}={teacher()}", "objective.distillation.hidden_states=1", "model.tokenizer.vocab_size=90"],
        r"not handed out by sdpa attention.*type model\.attention=eager": [
            *rows, f"{where}={teacher()}", "objective.distillation.attentions=1"],
        r"3:1, but the student has 2 layers and the teacher 2": [
            *rows, f"{where}={teacher()}", "objective.distillation.hidden_states=1",
            "objective.distillation.layers='3:1'"],
    }  # fmt: skip
    for message, words in faults.items():
        with pytest.raises(UserError, match=message):
            prepared_of(*TINY, *words)
    with pytest.raises(UserError, match="one of them must be above 0"):
        prepared_of(*TINY, *rows, "objective.distillation.answers=0")


# ---- self_distillation ----


def own_teacher(network: Any, **changed: Any) -> SelfDistillationLoss:
    return settings_of("self_distillation", **changed).build(parts_of(network, task_of()))


def test_the_average_of_the_weights_answers_without_dropout() -> None:
    network, batch = network_of("bert", dropout=0.3), batch_of()
    part = own_teacher(network, decay=0.5, temperature=1.5)
    average = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    for step in range(3):
        with torch.no_grad():
            for name, weight in network.named_parameters():
                weight.add_(0.05 * torch.randn_like(weight))
                decay = min(0.5, (1 + step) / (10 + step))
                average[name] = decay * average[name] + (1 - decay) * weight
        part.follow(step, None)
    trunk = Trunk(network)
    trunk.draw = 3
    loss = part.loss(trunk, batch)
    found = gradients_of(network, loss.total)
    assert network.training
    now = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    network.load_state_dict(average, strict=False)
    wanted = network.eval()(**batch.views["clean"]).logits.detach()
    network.load_state_dict(now, strict=False)
    network.train()
    trunk.reset()
    total = softened("single_label", trunk.logits("clean", batch), wanted, 1.5)
    torch.testing.assert_close(loss.total, total, rtol=1e-4, atol=1e-5)
    assert_same_gradients(found, gradients_of(network, total))
    again = own_teacher(network, decay=0.5)
    again.load_state(*part.state())
    assert all(torch.equal(again.weights[name], part.weights[name]) for name in average)


def test_the_start_stays_and_is_not_saved() -> None:
    network = network_of("bert")
    part = own_teacher(network, teacher="start")
    start = network.classifier.weight.detach().clone()
    with torch.no_grad():
        network.classifier.weight.add_(1.0)
    part.follow(0, None)
    assert torch.equal(part.weights["classifier.weight"], start)
    assert part.state() == ({}, {})


def test_a_start_at_random_is_no_teacher(tmp_path: Path) -> None:
    words = [*TINY, *write_rows(tmp_path), "objective=[supervised,self_distillation]",
             "objective.self_distillation.teacher=start"]  # fmt: skip
    with pytest.raises(UserError, match="the model starts at random"):
        prepared_of(*words)
    path = no_classifier(tmp_path / "none")
    shaped = [word for word in words if not word.startswith("model.")]
    with pytest.raises(UserError, match="has no classifier for these labels"):
        prepared_of(*shaped, "model=pretrained", f"model.path={path}")
    prepared_of(*shaped, "model=pretrained", f"model.path={teacher()}")

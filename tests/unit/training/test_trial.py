"""The trial before step 0: it holds what a step holds, and leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.balance.pcgrad import Projections
from llmtune.core.errors import LlmtuneError
from llmtune.training import trial
from llmtune.training.apart import Apart
from llmtune.training.trainer import Trainer
from tests.tiny import SETS, TINY, prepared_of, together, trainer_of, write_rows

BALANCES = ("fixed", "gradnorm", "pcgrad")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def made(rows: list[str], folder: Path, balance: str, *words: str) -> Trainer:
    chosen = (*together(*SETS[:2], f"balance={balance}"), SETS[2], "model.dropout=0.1", "train.eval_every=null")
    return trainer_of(prepared_of(*TINY, *rows, *chosen, "train.batch_rows=12", "train.max_steps=3", *words), folder)


@pytest.mark.parametrize("balance", BALANCES)
def test_a_run_is_the_same_without_it(
    balance: str, rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = made(rows, tmp_path / "tried", balance)
    state = tried.stepper.balance.state() if hasattr(tried.stepper.balance, "state") else None
    monkeypatch.setattr(
        trial, "try_worst",
        lambda composite, optimizer, feed, *others, **more: trial.Trial(feed.micro_tokens, (), 0),
    )  # fmt: skip
    plain = made(rows, tmp_path / "plain", balance)
    assert state is None or state == plain.stepper.balance.state()
    assert not tried.stepper.optimizer.state
    for trainer in (tried, plain):
        trainer.fit()
    for one, two in zip(tried.composite.parameters(), plain.composite.parameters()):
        assert torch.equal(one, two)
    assert tried.stepper.optimizer.state_dict()["state"].keys() == plain.stepper.optimizer.state_dict()["state"].keys()


def test_it_combines_gradients_that_conflict(
    rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, list[str], bool]] = []
    combine = Projections.combine

    def watched(self: Projections, step: int, gradients: Any) -> Any:
        one, two = gradients.values()
        product = sum(float((a * b).sum()) for a, b in zip(one, two) if a is not None and b is not None)
        seen.append((step, list(gradients), product < 0))
        return combine(self, step, gradients)

    monkeypatch.setattr(Projections, "combine", watched)
    made(rows, tmp_path / "run", "pcgrad")
    assert seen == [(0, ["supervised", "auxiliary/more"], True)]


@pytest.mark.parametrize("balance", ["gradnorm", "pcgrad"])
def test_memory_for_gradients_by_objective_makes_forward_passes_smaller(
    balance: str, rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, sizes = Apart.add, []

    def full(self: Apart, losses: Any, *, keep_graph: bool) -> None:
        sizes.append(len(losses))
        if len(sizes) < 3:
            raise torch.OutOfMemoryError("no room for another set of gradients")
        add(self, losses, keep_graph=keep_graph)

    whole = made(rows, tmp_path / "whole", balance).feed.micro_tokens
    monkeypatch.setattr(Apart, "add", full)
    trainer = made(rows, tmp_path / "halved", balance)
    assert trainer.feed.micro_tokens <= whole // 4
    assert all(parameter.grad is None for parameter in trainer.composite.parameters())


def test_what_can_not_fit_is_told_with_what_to_type(
    rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr(Apart, "add", full)
    with pytest.raises(LlmtuneError, match=r"train\.micro_rows=auto or balance=fixed$"):
        made(rows, tmp_path / "run", "pcgrad", "train.micro_rows=6")


@pytest.mark.parametrize("balance", ["gradnorm", "pcgrad"])
def test_processes_do_not_wait_for_each_other_in_it(balance: str, rows: list[str], tmp_path: Path) -> None:
    """One that is out of memory tries again, while others are through."""
    trainer = made(rows, tmp_path / "run", balance)

    class Several:
        """A process of two that gets stuck when it exchanges anything."""

        world, device, accelerator = 2, trainer.machine.device, None

    apart = Apart(trainer.composite, trainer.stepper.balance.watched, Several())
    apart.add({name: loss.total for name, loss in trainer.composite(trainer.feed.at(0)[0]).items()}, keep_graph=False)
    alone = apart.gathered(["supervised"], exchange=False)["supervised"]
    for one, two in zip(alone, apart.found["supervised"]):
        assert (one is None) == (two is None)
        assert one is None or (torch.equal(one, two) and one.data_ptr() != two.data_ptr())
    assert apart.norms(["supervised"], exchange=False)["supervised"] > 0


def test_it_tries_what_trains_last(rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head trains alone at first; memory has to do for the whole model, which trains later."""
    tried: list[set[str]] = []
    train_once = trial._train_once

    def seen(composite: Any, *others: Any) -> Any:
        missing = train_once(composite, *others)
        tried.append({name for name, weight in composite.named_parameters() if weight.grad is not None})
        return missing

    monkeypatch.setattr(trial, "_train_once", seen)
    words = ("freeze_policy=probe_then_tune", "freeze_policy.probe=2", "train.max_steps=4", "train.batch_rows=12")
    trainer = trainer_of(prepared_of(*TINY, *rows, *words), tmp_path / "run")
    assert tried == [{name for name, _ in trainer.composite.named_parameters()}]
    assert trainer.freezing.trainable == trainer.freezing.layers.at("head")
    assert not trainer.composite.model.base_model.encoder.training

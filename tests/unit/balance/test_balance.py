"""Ways of balancing, each against a few lines of plain torch."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llmtune.balance.gradnorm import GradNorm, LikeNorms
from llmtune.balance.pcgrad import Projections
from llmtune.balance.uncertainty import LogVariances
from llmtune.core.errors import ConfigError
from llmtune.training.step import StepResult
from tests.tiny import SETS, TINY, prepared_of, together, trainer_of, write_rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def step_of(losses: dict[str, float], norms: dict[str, float] | None = None) -> StepResult:
    sums = {**{name: 4 * loss for name, loss in losses.items()}, **{f"{name}/count": 4.0 for name in losses}}
    return StepResult(sums, 1.0, 4, 10, 12, norms=norms or {})


def test_uncertainty_is_adam_on_the_log_variances() -> None:
    balance = LogVariances(["a", "b"], 0.05)
    logs = torch.zeros(2, requires_grad=True)
    adam = torch.optim.Adam([logs], lr=0.05)
    for step in range(20):
        losses = {"a": 3.0 + math.sin(step), "b": 0.2}
        balance.follow(step, step_of(losses))
        loss = (torch.exp(-logs) * torch.tensor(list(losses.values())) + logs / 2).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    found = balance.weights({"a": 1.0, "b": 0.5, "other": 2.0})
    assert [found["a"], found["b"] * 2] == pytest.approx(torch.exp(-logs).tolist(), rel=1e-4)
    assert found["other"] == 2.0
    assert found["a"] < 1 < found["b"] * 2


def test_uncertainty_ends_where_its_loss_is_least() -> None:
    balance = LogVariances(["a"], 0.05)
    for step in range(400):
        balance.follow(step, step_of({"a": 4.0}))
    assert balance.weights({"a": 1.0})["a"] == pytest.approx(1 / 8, rel=1e-2)


def test_an_objective_without_items_in_a_step_keeps_its_weight() -> None:
    balance = LogVariances(["a", "b"], 0.05)
    result = step_of({"a": 2.0, "b": 0.0})
    result.sums["b/count"] = 0.0
    balance.follow(0, result)
    assert balance.log_variances["b"] == 0.0
    assert balance.log_variances["a"] > 0


def test_gradnorm_follows_the_gradient_of_its_own_loss() -> None:
    settings = GradNorm(name="gradnorm", alpha=1.5, lr=0.025)
    balance = LikeNorms(["a", "b", "c"], settings, [])
    balance.factors = {"a": 0.5, "b": 1.5, "c": 1.0}
    norms, ratios = {"a": 0.3, "b": 6.0, "c": 1.0}, {"a": 0.9, "b": 0.4, "c": 1.1}
    factors = torch.tensor(list(balance.factors.values()), requires_grad=True)
    unweighted = torch.tensor(list(norms.values())) / factors.detach()
    rates = torch.tensor(list(ratios.values()))
    found = factors * unweighted
    target = (found.mean() * (rates / rates.mean()) ** 1.5).detach()
    (found - target).abs().sum().backward()
    assert list(balance.gradients(norms, ratios).values()) == pytest.approx(factors.grad.tolist(), rel=1e-5)


def test_gradnorm_makes_norms_alike_and_keeps_the_mean_weight() -> None:
    balance = LikeNorms(["a", "b"], GradNorm(name="gradnorm", alpha=0.0, lr=0.02), [])
    for step in range(300):
        norms = {"a": 4 * balance.factors["a"], "b": 1 * balance.factors["b"]}
        balance.follow(step, step_of({"a": 1.0, "b": 1.0}, norms))
    assert sum(balance.factors.values()) == pytest.approx(2)
    assert 4 * balance.factors["a"] == pytest.approx(balance.factors["b"], rel=0.1)


def test_gradnorm_does_not_take_the_first_batch_for_more_than_it_is() -> None:
    """A loss that was next to nothing in it, and then varies, may not outweigh one that falls."""
    balance = LikeNorms(["a", "learnt"], GradNorm(name="gradnorm", alpha=1.5, lr=0.025), [])
    for step in range(200):
        losses = {"a": 0.7 * 0.999**step, "learnt": 1e-5 if step == 0 else 0.02 * (1 + step % 3)}
        balance.follow(step, step_of(losses, dict(balance.factors)))
    assert 0.5 < balance.factors["a"] < 1.5


@pytest.mark.parametrize("objective", ["smart", "self_distillation"])
@pytest.mark.parametrize("balance", ["gradnorm", "uncertainty"])
def test_a_loss_that_starts_at_zero_keeps_its_own_weight(
    balance: str, objective: str, rows: list[str], tmp_path: Path
) -> None:
    chosen = together(*SETS[:2], f"objective={objective}", f"balance={balance}")
    weight = f"objective.{objective}.weight=0.5"
    words = ("model.dropout=0", "train.batch_rows=12", "train.max_steps=60", "train.eval_every=null", weight)
    trainer = trainer_of(prepared_of(*TINY, *rows, *chosen, *words), tmp_path / "run")
    trainer.fit()
    weights = trainer.stepper.balance.weights({"supervised": 1.0, "auxiliary/more": 1.0, objective: 0.5})
    assert weights[objective] == 0.5
    assert min(weights.values()) >= 0.5
    assert weights["supervised"] != 1


def test_pcgrad_balances_a_loss_that_starts_at_zero(rows: list[str], tmp_path: Path) -> None:
    words = ("objective=[supervised,smart,l2_sp]", "balance=pcgrad", "train.batch_rows=12", "train.max_steps=1")
    assert trainer_of(prepared_of(*TINY, *rows, *words), tmp_path / "run").stepper.balance.names == [
        "supervised", "smart"
    ]  # fmt: skip


def plain_pcgrad(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Two tasks: the order plays no part."""
    product = first @ second
    if product >= 0:
        return first + second
    return first - product / second.pow(2).sum() * second + second - product / first.pow(2).sum() * first


@pytest.mark.parametrize("sign", [1, -1])
def test_pcgrad_projects_what_conflicts_and_nothing_else(sign: int) -> None:
    one, two = torch.tensor([1.0, 2.0, -0.5]), sign * torch.tensor([1.0, 0.5, 0.1])
    head = torch.tensor([7.0])
    balance = Projections(["a", "b"], 1, frozenset())
    cut = lambda gradient: [gradient[:2], gradient[2:]]  # noqa: E731
    found = balance.combine(0, {"a": [*cut(one), head, None], "b": [*cut(two), None, None]})
    assert found[3] is None
    assert torch.equal(found[2], head)  # of one objective alone: neither projected nor counted
    assert torch.allclose(torch.cat(found[:2]), plain_pcgrad(one, two), atol=1e-6)
    if sign < 0:
        assert torch.cat(found[:2]) @ one > -1e-6 or torch.cat(found[:2]) @ two > -1e-6


def test_pcgrad_of_three_by_its_order() -> None:
    torch.manual_seed(0)
    gradients = {name: torch.randn(5) for name in "abc"}
    balance = Projections(["a", "b", "c"], 3, frozenset())
    found = balance.combine(7, {name: [value.clone()] for name, value in gradients.items()})[0]
    from llmtune.core.seeds import generator

    rng, total = generator(3, "pcgrad", 7), torch.zeros(5)
    for name in "abc":
        mine, others = gradients[name].clone(), [other for other in "abc" if other != name]
        for number in rng.permutation(2):
            other = gradients[others[number]]
            if mine @ other < 0:
                mine = mine - (mine @ other) / (other @ other) * other
        total += mine
    assert torch.allclose(found, total, atol=1e-5)
    again = balance.combine(7, {name: [value.clone()] for name, value in gradients.items()})[0]
    assert torch.equal(found, again)


@pytest.mark.parametrize("balance", ["uncertainty", "gradnorm", "pcgrad"])
def test_steps_are_the_same_however_they_are_split(balance: str, rows: list[str], tmp_path: Path) -> None:
    gaps, runs = [], []
    for micro_rows in (12, 3):
        words = ("train.batch_rows=12", "train.max_steps=3", "model.dropout=0", f"train.micro_rows={micro_rows}")
        prepared = prepared_of(*TINY, *rows, *together(f"balance={balance}"), *words)
        trainer = trainer_of(prepared, tmp_path / str(micro_rows))
        results = [trainer.stepper.run(step, trainer.feed.at(step), 1e-2, lambda: False) for step in range(3)]
        runs.append((results, {name: value.detach().clone() for name, value in trainer.composite.named_parameters()}))
    (whole, weights), (split, others) = runs
    for one, two in zip(whole, split):
        assert two.sums == pytest.approx(one.sums, rel=1e-4)
        assert two.weights == pytest.approx(one.weights, rel=1e-4)
        assert two.norms == pytest.approx(one.norms, rel=1e-3)
    gaps = [float((weights[name] - others[name]).abs().max()) for name in weights]
    assert max(gaps) < 1e-4
    if balance == "gradnorm":
        assert whole[0].norms.keys() == {"supervised", "auxiliary/more"}
        assert min(whole[0].norms.values()) > 0


def test_gradients_by_objective_are_those_of_their_losses(rows: list[str], tmp_path: Path) -> None:
    """`combine` sees, for each objective, what one backward pass of its mean loss leaves in `.grad`."""
    words = ("train.batch_rows=12", "train.max_steps=1", "model.dropout=0", "train.micro_rows=4")
    trainer = trainer_of(prepared_of(*TINY, *rows, *together("balance=pcgrad"), *words), tmp_path / "run")
    stepper, network = trainer.stepper, trainer.composite
    batches = trainer.feed.at(0)
    expected: dict[str, list[torch.Tensor | None]] = {}
    for name, part in network.objectives.items():
        mine = [batch for batch in batches if batch.feed == part.feed]
        (sum(network(batch)[name].total for batch in mine) / sum(part.count(batch) for batch in mine)).backward()
        expected[name] = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
        network.zero_grad(set_to_none=True)
    seen: dict[str, list[torch.Tensor | None]] = {}
    stepper.balance = SimpleNamespace(
        learns=False, watched=[frozenset(name for name, _ in network.named_parameters())], weights=dict,
        combine=lambda step, gradients: seen.update(gradients) or gradients["supervised"],
    )  # fmt: skip
    stepper.run(0, batches, 0.0, lambda: False)
    for name, gradients in expected.items():
        for one, two in zip(gradients, seen[name]):
            assert (one is None) == (two is None)
            assert one is None or torch.allclose(one, two, atol=1e-6)


@pytest.mark.parametrize(("words", "said"), [
    (["balance=uncertainty"], "one loss to balance"),
    (["balance=gradnorm"], "one loss to balance"),
    (["balance=uncertainty", "objective=[supervised,l2_sp]"], "one loss to balance beside l2_sp, which keeps its own"),
    (["balance=gradnorm", "objective=[supervised,smart]"], "that don't start at 0"),
    (["balance=gradnorm", "objective=[smart]"], "there is no loss to balance"),
    (["balance=uncertainty", "objective=[supervised,smart,self_distillation]"], "which keep their own weight"),
    (["balance=pcgrad", "objective=[supervised,l2_sp]"], "one loss to balance beside l2_sp"),
    ([*together("balance=pcgrad", "sampling=round_robin")], "gradients of all objectives in each step"),
    ([*together("balance=gradnorm"), "freeze_policy=head_only"], "share no parameter that trains"),
    ([*together("balance=pcgrad"), "hardware.compile=true"], "hardware.compile=false"),
])  # fmt: skip
def test_what_can_not_be_balanced_is_refused(words: list[str], said: str, rows: list[str]) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        prepared_of(*TINY, *rows, *words)
    assert "type " in str(error.value)


def test_weights_that_change_are_logged(rows: list[str], tmp_path: Path) -> None:
    import json

    def lines(*words: str) -> list[dict]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        trainer_of(prepared_of(*TINY, *rows, "train.max_steps=3", "train.batch_rows=12", *words), folder).fit()
        written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [line for line in written if line["split"] == "train"]

    sets = together(*SETS[:2])
    learnt = lines(*sets, SETS[2], "balance=uncertainty")
    assert [line["weight/auxiliary/more"] for line in learnt] == sorted(
        (line["weight/auxiliary/more"] for line in learnt), reverse=True
    )
    scheduled = lines(*sets, SETS[2], "objective.auxiliary.weight='0:1, 1:0'")
    assert [line["weight/auxiliary/more"] for line in scheduled] == pytest.approx([1, 2 / 3, 1 / 3])
    assert "weight/supervised" not in scheduled[0]
    assert not any(name.startswith("weight/") for line in lines(*sets, SETS[2]) for name in line)

"""Losses of preferences: each is what its paper's equation gives for fixed logits, written out in plain torch."""

from __future__ import annotations

import math

import pytest
import torch

from llmtune.task import preference_losses as losses

PAIRS, TOKENS, WORDS = 5, 9, 31


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits - logits.exp().sum(-1, keepdim=True).log()


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By side the log-probabilities of answers as sums, and their numbers of tokens."""
    draw = torch.Generator().manual_seed(3)
    found = {}
    for side in ("chosen", "rejected", "reference chosen", "reference rejected"):
        logits = torch.randn(PAIRS, TOKENS, WORDS, generator=draw, dtype=torch.float64) * 2
        words = torch.randint(WORDS, (PAIRS, TOKENS), generator=torch.Generator().manual_seed(len(side)))
        lengths = torch.tensor([9, 4, 1, 7, 6]) if "chosen" in side else torch.tensor([3, 9, 5, 7, 2])
        sums = []
        for pair in range(PAIRS):
            steps = _log_softmax(logits[pair])[range(int(lengths[pair])), words[pair, : int(lengths[pair])]]
            sums.append(steps.sum())
        found[side] = (torch.stack(sums), lengths)
    return found


def _same(found: torch.Tensor, wanted: list[float]) -> None:
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)


def _ratio(answers: dict[str, tuple[torch.Tensor, torch.Tensor]], side: str, pair: int) -> float:
    return float(answers[side][0][pair]) - float(answers[f"reference {side}"][0][pair])


def _per_token(answers: dict[str, tuple[torch.Tensor, torch.Tensor]], side: str) -> torch.Tensor:
    return answers[side][0] / answers[side][1]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_is_equation_7(answers: dict[str, tuple[torch.Tensor, torch.Tensor]], smoothing: float) -> None:
    beta, wanted = 0.3, []
    for pair in range(PAIRS):
        gap = beta * _ratio(answers, "chosen", pair) - beta * _ratio(answers, "rejected", pair)
        right, wrong = -math.log(1 / (1 + math.exp(-gap))), -math.log(1 / (1 + math.exp(gap)))
        wanted.append((1 - smoothing) * right + smoothing * wrong)
    ratio_P = answers["chosen"][0] - answers["reference chosen"][0]
    ratio_P = ratio_P - (answers["rejected"][0] - answers["reference rejected"][0])
    _same(losses.dpo(ratio_P, beta, smoothing), wanted)


def test_ipo_is_equation_17_of_means(answers: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    tau, wanted = 0.25, []
    for pair in range(PAIRS):
        means = [float(answers[side][0][pair]) / int(answers[side][1][pair]) for side in answers]
        own = means[0] - means[1]
        reference = means[2] - means[3]
        wanted.append((own - reference - 1 / (2 * tau)) ** 2)
    ratio_P = _per_token(answers, "chosen") - _per_token(answers, "reference chosen")
    ratio_P = ratio_P - (_per_token(answers, "rejected") - _per_token(answers, "reference rejected"))
    _same(losses.ipo(ratio_P, tau), wanted)


def test_simpo_has_a_margin_and_no_reference(answers: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    beta, gamma, wanted = 2.0, 0.5, []
    for pair in range(PAIRS):
        good = beta / int(answers["chosen"][1][pair]) * float(answers["chosen"][0][pair])
        bad = beta / int(answers["rejected"][1][pair]) * float(answers["rejected"][0][pair])
        wanted.append(math.log(1 + math.exp(-(good - bad - gamma))))
    _same(losses.simpo(_per_token(answers, "chosen"), _per_token(answers, "rejected"), beta, gamma), wanted)


def test_orpo_is_the_usual_loss_and_the_odds_ratio(answers: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    weight, wanted = 0.4, []
    for pair in range(PAIRS):
        good = math.exp(float(answers["chosen"][0][pair]) / int(answers["chosen"][1][pair]))
        bad = math.exp(float(answers["rejected"][0][pair]) / int(answers["rejected"][1][pair]))
        ratio = (good / (1 - good)) / (bad / (1 - bad))
        wanted.append(-math.log(good) + weight * -math.log(1 / (1 + math.exp(-math.log(ratio)))))
    _same(losses.orpo(_per_token(answers, "chosen"), _per_token(answers, "rejected"), weight), wanted)


def test_odds_stay_finite_where_a_model_is_sure() -> None:
    sure = torch.tensor([0.0, -1e-9, -50.0], requires_grad=True)
    found = losses.orpo(sure, torch.tensor([-1.0, -1.0, -1.0]), 0.1)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(sure.grad).all()


def test_kto_is_equation_8(answers: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    beta, gains, pains = 0.2, 1.5, 0.75
    own = answers["chosen"][0] - answers["reference chosen"][0]
    elsewhere = answers["rejected"][0] - answers["reference rejected"][0]
    desirable = [True, False, False, True, True]
    zero = max(0.0, sum(elsewhere.tolist()) / PAIRS)
    assert zero > 0
    wanted = []
    for ratio, good in zip(own.tolist(), desirable):
        if good:
            wanted.append(gains - gains / (1 + math.exp(-beta * (ratio - zero))))
        else:
            wanted.append(pains - pains / (1 + math.exp(-beta * (zero - ratio))))
    found = losses.kto(
        own, torch.tensor(desirable), losses.kto_zero(elsewhere), beta, desirable_weight=gains,
        undesirable_weight=pains,
    )  # fmt: skip
    _same(found, wanted)


def test_what_kto_compares_with_is_never_negative_and_has_no_gradient() -> None:
    moved = torch.tensor([-3.0, 1.0], requires_grad=True)
    assert losses.kto_zero(moved) == 0
    assert not losses.kto_zero(-moved).requires_grad
    assert losses.kto_zero(-moved) == 1
    assert losses.kto_zero(moved[:0]) == 0


def test_rewards_are_compared_by_bradley_and_terry() -> None:
    better, worse = [2.0, -1.0, 0.0], [1.0, 3.0, 0.0]
    wanted = [-math.log(math.exp(a) / (math.exp(a) + math.exp(b))) for a, b in zip(better, worse)]
    _same(losses.bradley_terry(torch.tensor(better), torch.tensor(worse)), wanted)

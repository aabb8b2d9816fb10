"""Clipping by value and noise: their formulas, and that noise depends on nothing but seed, step and name."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from llmtune.training.gradients import add_noise, clip_by_value


def network() -> nn.Module:
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight)
    return net


def noise(net: nn.Module) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in net.parameters() if weight.grad is not None])


def test_values_are_brought_into_the_limit() -> None:
    net = nn.Linear(3, 1, bias=False)
    net.weight.grad = torch.tensor([[-2.0, 0.1, 0.7]])
    clip_by_value(net, 0.5)
    assert net.weight.grad.tolist() == [[-0.5, pytest.approx(0.1), 0.5]]


@pytest.mark.parametrize("step", [0, 99])
def test_noise_has_its_variance(step: int) -> None:
    net = network()
    add_noise(net, 0.3, seed=1, step=step)
    assert noise(net).std().item() == pytest.approx(math.sqrt(0.3 / (1 + step) ** 0.55), rel=0.03)
    assert abs(noise(net).mean().item()) < 0.03


def test_noise_is_a_function_of_seed_step_and_name() -> None:
    start = network()
    drawn = []
    for seed, step in ((1, 0), (1, 0), (2, 0), (1, 1)):
        net = copy.deepcopy(start)
        for new, old in zip(net.parameters(), start.parameters()):
            new.grad = torch.zeros_like(old)
        torch.randn(3)  # other draws in between
        add_noise(net, 1.0, seed=seed, step=step)
        drawn.append(noise(net))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0] * 2**-0.275, drawn[3])
    assert not torch.equal(drawn[0][: 64 * 64], drawn[0][64 * 65 : 64 * 65 + 64 * 64])


def test_what_has_no_gradient_gets_none() -> None:
    net = network()
    net[0].weight.grad = None  # type: ignore[union-attr]
    add_noise(net, 1.0, seed=1, step=0)
    clip_by_value(net, 1.0)
    assert net[0].weight.grad is None  # type: ignore[union-attr]

"""Each optimizer against its paper's equations in a few lines of plain torch; a loss that falls; what is frozen."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llmtune.config.locate import conf_dir, config_file, option_files
from llmtune.config.shelf import find_part
from llmtune.model.layers import LayerMap
from llmtune.optimizer.muon_steps import MuonSteps, orthogonalized

LR, STEPS = 0.01, 3
HERE = [name for name in option_files("optimizer", [conf_dir()]) if name != "adamw_8bit"]


class Net(nn.Module):
    """Two layers as LayerMap finds them, an embedding below and a head on top."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Module()
        self.base.embed = nn.Embedding(5, 4)
        self.base.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4)) for _ in range(2))
        self.head = nn.Linear(4, 3)


def settings_of(option: str, **changes: Any) -> Any:
    from omegaconf import OmegaConf

    path = config_file(f"optimizer/{option}", [conf_dir()])
    values = OmegaConf.to_container(OmegaConf.load(str(path)))
    assert isinstance(values, dict)
    return find_part("optimizer", option, [], "optimizer.name").load()(**{**values, **changes})


def made(option: str, network: nn.Module, **changes: Any) -> Any:
    parts: Any = SimpleNamespace(network=network, layers=LayerMap.of(network, "base"), peak_lr=LR)
    optimizer = settings_of(option, **changes).build(parts)
    for group in optimizer.param_groups:
        group["lr"] = LR * group["factor"]
    return optimizer


def gradients(network: nn.Module, step: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return {name: torch.randn(weight.shape, generator=draw) for name, weight in network.named_parameters()}


Rule = Callable[[Tensor, list[Tensor], float], Tensor]
"""(weight at the start, gradients of the steps, weight decay) -> weight after them"""


def adamw(weight: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for t, g in enumerate(gradients, 1):
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        update = mean / (1 - 0.9**t) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
        weight = weight - LR * decay * weight - LR * update
    return weight


def adam(weight: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for t, g in enumerate(gradients, 1):
        g = g + decay * weight
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        weight = weight - LR * mean / (1 - 0.9**t) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
    return weight


def sgd(weight: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
    momentum = torch.zeros_like(weight)
    for g in gradients:
        momentum = 0.9 * momentum + g + decay * weight
        weight = weight - LR * momentum
    return weight


def lion(weight: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
    mean = torch.zeros_like(weight)
    for g in gradients:
        weight = weight - LR * ((0.9 * mean + 0.1 * g).sign() + decay * weight)
        mean = 0.99 * mean + 0.01 * g
    return weight


def adafactor(weight: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
    row, column, square = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for t, g in enumerate(gradients, 1):
        keep = 1 - t**-0.8
        if g.ndim == 2:
            row = keep * row + (1 - keep) * (g**2 + 1e-30).mean(1, keepdim=True)
            column = keep * column + (1 - keep) * (g**2 + 1e-30).mean(0, keepdim=True)
            square = row * column / row.mean()
        else:
            square = keep * square + (1 - keep) * (g**2 + 1e-30)
        update = g / square.sqrt()
        update = update / max(1.0, update.pow(2).mean().sqrt().item())
        weight = weight - LR * decay * weight - LR * update
    return weight


def schedule_free(weight: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
    y = z = x = weight
    square = torch.zeros_like(weight)
    for t, g in enumerate(gradients, 1):
        square = 0.999 * square + 0.001 * g**2
        z = z - LR * (g / ((square / (1 - 0.999**t)).sqrt() + 1e-8) + decay * y)
        x = (1 - 1 / t) * x + z / t
        y = 0.1 * z + 0.9 * x
    return y


RULES: dict[str, Rule] = {
    "adamw": adamw, "adam": adam, "sgd": sgd, "lion": lion, "adafactor": adafactor,
    "schedule_free_adamw": schedule_free,
}  # fmt: skip


@pytest.mark.parametrize("option", RULES)
def test_steps_are_the_papers(option: str) -> None:
    network = Net()
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    optimizer = made(option, network, weight_decay=0.1)
    drawn = [gradients(network, step) for step in range(STEPS)]
    for gradient in drawn:
        for name, weight in network.named_parameters():
            weight.grad = gradient[name]
        optimizer.step()
    for name, weight in network.named_parameters():
        expected = RULES[option](before[name], [gradient[name] for gradient in drawn], 0.1 if weight.ndim == 2 else 0)
        torch.testing.assert_close(weight.detach(), expected, rtol=2e-5, atol=2e-6, msg=name)


def test_muon_steps_matrices_by_its_paper_and_the_rest_by_adamw() -> None:
    network = Net()
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    optimizer = made("muon", network, weight_decay=0.1)
    drawn = [gradients(network, step) for step in range(STEPS)]
    for gradient in drawn:
        for name, weight in network.named_parameters():
            weight.grad = gradient[name]
        optimizer.step()
    for name, weight in network.named_parameters():
        steps = [gradient[name] for gradient in drawn]
        if "layers" in name and weight.ndim == 2:
            expected, mean = before[name], torch.zeros_like(weight)
            for g in steps:
                mean = 0.95 * mean + 0.05 * g
                direction = orthogonalized((0.95 * mean + 0.05 * g)[None], 5)[0]
                expected = expected - LR * 0.1 * expected - LR * 0.2 * math.sqrt(6) * direction
        else:
            expected = adamw(before[name], steps, 0.1 if weight.ndim == 2 else 0)
        torch.testing.assert_close(weight.detach(), expected, rtol=2e-5, atol=2e-5, msg=name)


def test_muon_agrees_with_torch() -> None:
    network, other = Net(), Net()
    optimizer = made("muon", network, weight_decay=0.1)
    matrices = {name: weight for name, weight in other.base.layers.named_parameters() if weight.ndim == 2}
    theirs = torch.optim.Muon(matrices.values(), lr=LR, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(STEPS):
        for (name, mine), its in zip(network.named_parameters(), other.parameters()):
            mine.grad = its.grad = gradients(network, step)[name]
        optimizer.step()
        theirs.step()
    for name, weight in network.base.layers.named_parameters():
        if name in matrices:
            torch.testing.assert_close(weight, matrices[name], rtol=0, atol=LR / 50)  # theirs is always of bf16


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 16), (2, 16, 4)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalized(stack, 5)
    assert found.shape == stack.shape
    values = torch.linalg.svdvals(found)
    assert 0.3 < values.min() <= values.max() < 1.3
    alone = torch.stack([orthogonalized(matrix[None], 5)[0] for matrix in stack])
    torch.testing.assert_close(found, alone, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("option", HERE)
def test_a_loss_falls_and_what_has_no_gradient_keeps_its_bits(option: str) -> None:
    network = Net()
    frozen = network.base.layers[0]
    frozen.requires_grad_(False)
    kept = {name: weight.clone() for name, weight in frozen.named_parameters()}
    optimizer = made(option, network, weight_decay=0.1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad(set_to_none=True)
        loss = sum(((weight - 0.3) ** 2).mean() for weight in network.parameters() if weight.requires_grad)
        loss.backward()  # type: ignore[union-attr]
        losses.append(loss.item())  # type: ignore[union-attr]
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(kept[name], weight) for name, weight in frozen.named_parameters())
    assert not any(weight in optimizer.state for weight in frozen.parameters())


@pytest.mark.parametrize("option", HERE)
def test_a_rate_of_zero_moves_nothing(option: str) -> None:
    network = Net()
    optimizer = made(option, network)
    before = [weight.detach().clone() for weight in network.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, network.parameters()))


def test_muon_goes_in_pieces_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = Net(), Net()
    for network, most in ((whole, 2**25), (pieces, 1)):
        monkeypatch.setattr("llmtune.optimizer.muon_steps.MOST_STACKED", most)
        optimizer = made("muon", network)
        for name, weight in network.named_parameters():
            weight.grad = gradients(network, 0)[name]
        optimizer.step()
    for weight, other in zip(whole.parameters(), pieces.parameters()):
        torch.testing.assert_close(weight, other, rtol=0, atol=LR / 50)


def test_sgd_looks_ahead_with_nesterov_and_has_no_state_without_momentum() -> None:
    network = Net()
    before = network.head.weight.detach().clone()
    optimizer = made("sgd", network, nesterov=True)
    grad = gradients(network, 0)["head.weight"]
    for _ in range(2):
        network.head.weight.grad = grad
        optimizer.step()
    torch.testing.assert_close(network.head.weight.detach(), before - LR * (1.9 + 1 + 0.9 * 1.9) * grad)
    optimizer = made("sgd", Net(), momentum=0.0)
    assert not optimizer.state


@pytest.mark.parametrize("option", ["adamw", "adam", "sgd", "muon"])
def test_kernels_are_fused_where_torch_has_them(option: str) -> None:
    plain = {"momentum": 0.0} if option == "sgd" else {}  # whose fused step can't begin with some weights later
    assert made(option, Net(), **plain).param_groups[-1]["fused"] is True
    assert made(option, Net().to("meta"), **plain).param_groups[-1]["fused"] is None


def test_schedule_free_gives_the_average_away() -> None:
    network = Net()
    optimizer = made("schedule_free_adamw", network, weight_decay=0.0)
    weight = network.head.weight
    z, zs = weight.detach().clone(), []
    for step in range(STEPS):
        for name, parameter in network.named_parameters():
            parameter.grad = gradients(network, step)[name]
        optimizer.step()
        z = optimizer.state[weight]["z"]
        zs.append(z.clone())
    torch.testing.assert_close(optimizer.averaged(weight), torch.stack(zs).mean(0))
    assert optimizer.averaged(nn.Parameter(torch.zeros(2))) is None


def test_muon_without_matrices_is_adamw() -> None:
    network, other = Net(), Net()
    for module in (network, other):
        module.base.layers.requires_grad_(False)
    mine, adam = made("muon", network), made("adamw", other)
    for step in range(2):
        for (name, weight), its in zip(network.named_parameters(), other.parameters()):
            if weight.requires_grad:
                weight.grad = its.grad = gradients(network, step)[name]
        mine.step()
        adam.step()
    assert all(torch.equal(weight, its) for weight, its in zip(network.parameters(), other.parameters()))
    assert isinstance(mine, MuonSteps)


@pytest.mark.parametrize(("option", "change", "fault"), [
    ("adamw", {"lr": 0.0}, "lr: 0.0 is too small"),
    ("adamw", {"lr": "much"}, "lr: 'much' is not known; allowed: auto"),
    ("adamw", {"betas": [0.9]}, "betas: .* two are needed"),
    ("lion", {"betas": [0.9, 1.0]}, "betas: 1.0 is out of range"),
    ("adam", {"eps": 0}, "eps: 0 is too small"),
    ("muon", {"iterations": 0}, "iterations: 0 is too small"),
    ("muon", {"head_lr_factor": 0}, "head_lr_factor: 0 is too small"),
    ("sgd", {"momentum": 0, "nesterov": True}, "nesterov: needs momentum"),
    ("adafactor", {"decay_power": 2}, "decay_power: 2 is out of range"),
    ("schedule_free_adamw", {"betas": [0.0, 0.9]}, "betas: 0.0 is out of range"),
    ("adamw", {"schedule": "cosine_with_restarts"}, "did you mean 'cosine_restarts'"),
])  # fmt: skip
def test_ranges(option: str, change: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        settings_of(option, **change)


@pytest.mark.parametrize("option", HERE)
def test_weights_may_begin_to_train_later(option: str) -> None:
    """Frozen at first, or of a set of rows that a step did not read."""
    network = Net()
    optimizer = made(option, network)
    start = network.base.embed.weight.detach().clone()
    for step in range(3):
        for name, gradient in gradients(network, step).items():
            late = name.startswith("base.embed") and step == 0
            network.get_parameter(name).grad = None if late else gradient
        optimizer.step()
        assert torch.equal(start, network.base.embed.weight) == (step == 0)

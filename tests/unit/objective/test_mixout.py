"""mixout: the weights of one run are mixed as the paper has it, and are the plain ones again afterwards."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from llmtune.core.errors import ConfigError
from llmtune.core.seeds import fold
from llmtune.freeze_policy.head_only import HeadOnly
from llmtune.model.trunk import Trunk
from llmtune.objective.mixout import mixed
from llmtune.objective.starting_weights import Starts
from tests.unit.objective.small import (
    assert_same_gradients,
    batch_of,
    checked,
    gradients_of,
    network_of,
    parts_of,
    settings_of,
    task_of,
)
from tests.unit.objective.test_l2_sp import move


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_loss_and_gradient_are_those_of_plain_torch(family: str) -> None:
    network, batch = network_of(family), batch_of()
    starts = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    part, trunk, task = checked("mixout", network, probability=0.4)
    move(network)
    batch.step = 3
    found = part.loss(trunk, batch)
    weights = {}
    for name, weight in network.named_parameters():
        weights[name] = weight
        if weight.ndim == 2 and (".layer." in name or ".h." in name):
            draws = torch.Generator().manual_seed(fold(fold(3, "mixout", 3), name))
            kept = (torch.rand(weight.shape, generator=draws) >= 0.4).float()
            weights[name] = starts[name] + (kept * weight + (1 - kept) * starts[name] - starts[name]) / 0.6
    logits = torch.func.functional_call(network, weights, (), dict(batch.views["clean"])).logits
    expected = task.loss(logits, batch.targets).total
    torch.testing.assert_close(found.total, expected)
    assert_same_gradients(gradients_of(network, found.total), gradients_of(network, expected), rtol=1e-3, atol=1e-4)


def test_afterwards_the_network_is_as_before() -> None:
    network = network_of("bert")
    names, weights = list(network.state_dict()), list(network.parameters())
    part, trunk, _ = checked("mixout", network)
    move(network)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    part.loss(trunk, batch_of()).total.backward()
    with pytest.raises(RuntimeError, match="inside"), mixed(network, Starts(network, frozenset(names)), 0.5, 1):
        raise RuntimeError("inside")
    assert list(network.state_dict()) == names
    assert all(one is two for one, two in zip(network.parameters(), weights))
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())


def test_weights_are_on_average_themselves() -> None:
    network = network_of("bert")
    name = "bert.encoder.layer.0.output.dense.weight"
    starts = Starts(network, frozenset({name}))
    move(network)
    weight = network.get_parameter(name)
    total = torch.zeros_like(weight)
    for seed in range(400):
        with mixed(network, starts, 0.3, seed):
            total += network.get_submodule(name.removesuffix(".weight")).weight.detach() / 400
    assert float((total - weight.detach()).abs().mean() / (weight - starts.of(name)).detach().abs().mean()) < 0.05


def test_all_parts_of_a_step_draw_alike_and_steps_differ() -> None:
    network = network_of("bert")
    part, trunk, _ = checked("mixout", network)
    move(network)

    def total(step: int, rows: slice) -> float:
        batch = batch_of(rows=rows)
        batch.step = step
        return part.loss(trunk, batch).total.item()

    whole = total(1, slice(None))
    assert whole == pytest.approx(total(1, slice(0, 2)) + total(1, slice(2, 6)), rel=1e-5)
    assert whole != pytest.approx(total(2, slice(None)), rel=1e-5)


def test_what_can_not_be_mixed_is_refused() -> None:
    settings, prospect = settings_of("mixout"), parts_of(network_of("bert"), task_of())
    prospect.config.train = SimpleNamespace(gradient_checkpointing=False)
    prospect.config.hardware = SimpleNamespace(compile=False)
    settings.check(prospect)
    prospect.config.train.gradient_checkpointing = prospect.config.hardware.compile = True
    with pytest.raises(ConfigError) as caught:
        settings.check(prospect)
    assert len(caught.value.faults) == 2
    prospect.config.freeze_policy = HeadOnly(name="head_only", lr_factor=20)
    with pytest.raises(ConfigError, match="type freeze_policy=none"):
        settings.check(prospect)
    with pytest.raises(ValueError, match="probability: 1"):
        settings_of("mixout", probability=1)


def test_the_trunk_sees_mixed_weights_only_within() -> None:
    network, batch = network_of("bert"), batch_of()
    part, trunk, _ = checked("mixout", network, probability=0.9)
    move(network)
    plain = Trunk(network).logits("clean", batch)
    part.loss(trunk, batch)
    assert torch.equal(trunk.logits("clean", batch), plain)

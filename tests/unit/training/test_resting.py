"""What stops to train: an optimizer with an average rests on it, few-bit weights are left, what moved is known."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from llmtune.freeze_policy.phases import Phase, Phases
from llmtune.model.layers import LayerMap, wrap
from llmtune.optimizer.schedule_free_steps import ScheduleFreeSteps
from llmtune.training.freezing import Freezing
from tests.unit.training.test_freezing import frozen, network


def test_schedule_free_rests_on_the_average() -> None:
    """What stops to train is in training what it is in evaluation, and stays that at each later look."""
    network = nn.Linear(3, 2)
    group = {"params": list(network.parameters()), "weight_decay": 0.01}
    optimizer = ScheduleFreeSteps([group], lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    weight = network.weight
    for _ in range(3):
        network(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    average = optimizer.averaged(weight)
    assert average is not None
    assert not torch.equal(weight, average)
    for _ in range(2):
        optimizer.rest(weight)
        assert torch.equal(weight, average)
        again = optimizer.averaged(weight)
        assert again is not None
        assert torch.equal(again, average)
    optimizer.rest(nn.Parameter(torch.zeros(2)))


def test_the_optimizer_is_told_what_stops_to_train() -> None:
    model = network("bert")
    rested: list[int] = []
    policy = Phases([Phase(0, ("layer 3", "head")), Phase(2, ("head",)), Phase(4, ("layer 3", "head"))])
    layers = LayerMap.of(model, model.base_model_prefix)
    optimizer = SimpleNamespace(rest=lambda parameter: rested.append(id(parameter)))
    freezing = Freezing(model, layers, policy, optimizer=optimizer)
    for step in range(5):
        freezing.apply(step)
        assert set(rested) == ({id(model.get_parameter(name)) for name in layers.at("layer 3")} if step > 1 else set())
    assert len(rested) == len(layers.at("layer 3"))


def test_few_bit_weights_are_left_when_all_is_lifted() -> None:
    model = network("bert")
    model.bert.encoder.layer[0].output.dense.weight = nn.Parameter(torch.zeros(4, dtype=torch.uint8), False)
    freezing = frozen(model, "head")
    freezing.lift()
    still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert still == {"bert.encoder.layer.0.output.dense.weight"}


def test_what_moved_beneath_an_adapter_is_known() -> None:
    model = network("bert")
    wrapped = SimpleNamespace(wrap=lambda one: one.bert.encoder.layer[0].add_module("added", nn.Linear(2, 2)) or one)
    _, added = wrap(wrapped, model)
    layers = LayerMap.of(model, model.base_model_prefix, added)
    names = layers.adapters | layers.at("head")
    norms = {name for name, kind in layers.kinds.items() if kind == "norm"}
    for trained, moved in ((names, set()), (names | norms, norms)):
        policy = SimpleNamespace(changes=False, trainable=lambda layers, step, trained=trained: trained)
        freezing = Freezing(model, layers, policy)
        freezing.apply(0)
        assert freezing.moved_base() == frozenset()  # no step was made yet
        freezing.remember()
        assert freezing.moved_base() == moved

"""l2_sp: half the squared distance from the start, once per step, whatever trains."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from llmtune.core.errors import ConfigError
from llmtune.freeze_policy.gradual import Gradual
from llmtune.freeze_policy.head_only import HeadOnly
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


def move(network: torch.nn.Module) -> None:
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn_like(weight)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_loss_and_gradient_are_those_of_plain_torch(family: str) -> None:
    network, batch = network_of(family), batch_of()
    starts = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    part, trunk, _ = checked("l2_sp", network, new_weights=0.3)
    move(network)
    loss = part.loss(trunk, batch)
    assert loss.count.item() == part.count(batch) == 6
    expected = torch.zeros(())
    for name, weight in network.named_parameters():
        new = name.startswith(("classifier", "score"))
        expected = expected + (0.3 * (weight**2).sum() if new else ((weight - starts[name]) ** 2).sum()) / 2
    assert loss.total.item() / 6 == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(gradients_of(network, loss.total / 6), gradients_of(network, expected))


def test_sums_do_not_depend_on_how_rows_are_split() -> None:
    network = network_of("bert")
    part, trunk, _ = checked("l2_sp", network)
    move(network)
    whole = part.loss(trunk, batch_of())
    split = [part.loss(trunk, batch_of(rows=rows)) for rows in (slice(0, 1), slice(1, 6))]
    assert whole.total.item() == pytest.approx(sum(loss.total.item() for loss in split), rel=1e-6)
    assert whole.count.item() == sum(loss.count.item() for loss in split)


def test_only_what_trains_at_some_step_is_remembered() -> None:
    network, task = network_of("bert"), task_of()
    parts = parts_of(network, task, steps_per_epoch=10, num_steps=100)
    parts.config.freeze_policy = Gradual(name="gradual", every=40, at_once=1)
    part = settings_of("l2_sp").build(parts)
    places = {parts.layers.places[name] for name in part.starts.parameters}
    assert places == {"layer 0", "layer 1", "head"}  # the embeddings' turn never comes
    for name, weight in network.named_parameters():
        weight.requires_grad_("classifier" in name)
    assert gradients_of(network, part.loss(None, batch_of()).total).keys() == {"classifier.weight", "classifier.bias"}


def test_nothing_that_trains_gives_nothing() -> None:
    network = network_of("bert")
    part, trunk, _ = checked("l2_sp", network)
    for weight in network.parameters():
        weight.requires_grad_(False)
    assert float(part.loss(trunk, batch_of()).total) == 0


def test_a_backbone_that_stays_as_it_is_is_refused() -> None:
    network, settings = network_of("bert"), settings_of("l2_sp")
    prospect = parts_of(network, task_of())
    settings.check(prospect)
    prospect.config.freeze_policy = SimpleNamespace(
        name="pattern",
        build=lambda parts: SimpleNamespace(changes=False, trainable=lambda layers, step: {"classifier.weight"}),
    )
    with pytest.raises(ConfigError, match=r"freeze_policy=pattern, adapter=none.*type freeze_policy=none adapter=none"):
        settings.check(prospect)
    prospect.config.freeze_policy = HeadOnly(name="head_only", lr_factor=20)  # the pooler is pretrained and trains
    settings.check(prospect)

"""What `converging` measures and decides, on gradients made by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from llmtune.freeze_policy.converging import Converging

PLACES = ["embeddings", "layer 0", "layer 1", "layer 2", "final", "head"]


class FewLayers:
    """A LayerMap with one parameter at each place."""

    num_layers = 3
    order = PLACES

    def trainable_at(self, *places: str) -> frozenset[str]:
        return frozenset(place for place in places if place != "final")


class Run:
    def __init__(self, **settings: Any):
        self.network = nn.ParameterDict({place: nn.Parameter(torch.zeros(2)) for place in PLACES if place != "final"})
        self.said: list[str] = []
        self.layers = FewLayers()
        parts = SimpleNamespace(
            network=self.network, layers=self.layers, steps_per_epoch=8, console=SimpleNamespace(say=self.said.append)
        )
        values = {"name": "converging", "every": 2, "percentile": 50, "start": 0, "keep": 1, **settings}
        self.policy = Converging(**values).build(parts)  # type: ignore[arg-type]
        self.step = 0

    def follow(self, *norms: float, clipped_to: float = 1.0, grad_norm: float | None = None) -> None:
        """One step whose gradients have these norms (embeddings, three layers, head), given clipped."""
        whole = math.sqrt(sum(norm**2 for norm in norms))
        for place, norm in zip((place for place in PLACES if place != "final"), norms):
            self.network[place].grad = torch.tensor([norm, 0.0]) * clipped_to / whole
        self.policy.follow(self.step, SimpleNamespace(grad_norm=whole if grad_norm is None else grad_norm))
        self.step += 1

    @property
    def frozen(self) -> set[str]:
        return set(PLACES) - {"final"} - self.policy.trainable(self.layers, self.step)


def test_a_settled_bottom_is_frozen_and_no_more() -> None:
    run = Run()
    for norms in [(1.0, 2.0, 3.0, 4.0, 9.0), (3.0, 2.0, 3.0, 4.0, 9.0)]:
        run.follow(*norms)
    assert run.frozen == set()  # means 2, 2, 3, 4: there is nothing yet to compare with
    run.follow(2.0, 2.0, 6.0, 4.0, 9.0)
    run.follow(2.0, 2.2, 6.0, 4.0, 9.0)  # changes 0, 0.05, 1, 0: the median is 0.025
    assert run.frozen == {"embeddings"}
    assert run.said == ["step 4: embeddings settled and is frozen"]
    assert run.policy.frozen_at == {"embeddings": 4}


def test_what_settles_above_something_that_moves_stays() -> None:
    run = Run(percentile=90)
    for scale in (1.0, 1.0, 2.0, 2.0):
        run.follow(scale, 1.0, 1.0, 1.0, 1.0)
    assert run.frozen == set()
    run.follow(2.0, 1.0, 1.0, 5.0, 1.0)
    run.follow(2.0, 1.0, 1.0, 5.0, 1.0)
    assert run.frozen == {"embeddings", "layer 0", "layer 1"}
    assert run.said == ["step 6: embeddings, layer 0, layer 1 settled and are frozen"]
    before = run.policy.state()
    for _ in range(4):  # all that may be frozen is: nothing is measured any longer
        run.follow(9.0, 9.0, 9.0, 9.0, 9.0)
    assert run.policy.state()[1] == before[1]


def test_kept_layers_and_the_head_are_never_frozen() -> None:
    run = Run(percentile=100, keep=2)
    for step in range(12):
        run.follow(1.0, 1.0, 1.0, 1.0 + step, 1.0)
    assert run.frozen == {"embeddings", "layer 0"}


def test_the_first_looks_may_only_look() -> None:
    run = Run(percentile=90, start="1ep")
    for _ in range(7):
        run.follow(1.0, 1.0, 1.0, 1.0 + run.step, 1.0)
    assert run.frozen == set()
    run.follow(1.0, 1.0, 1.0, 8.0, 1.0)
    assert run.frozen == {"embeddings", "layer 0", "layer 1"}


def test_gradients_count_as_they_were_before_they_were_clipped() -> None:
    clipped, whole = Run(), Run()
    for step in range(1, 3):
        clipped.follow(1.0, 2.0, 3.0, 4.0, 9.0, clipped_to=0.1 * step)
        whole.follow(1.0, 2.0, 3.0, 4.0, 9.0, clipped_to=math.sqrt(111.0))
    assert clipped.policy.before_P == pytest.approx(whole.policy.before_P, rel=1e-6)
    assert whole.policy.before_P.tolist() == pytest.approx([1.0, 2.0, 3.0, 4.0, 9.0])


def test_a_step_that_was_passed_over_counts_for_nothing() -> None:
    run = Run()
    run.follow(1.0, 1.0, 1.0, 1.0, 1.0)
    run.follow(1.0, 1.0, 1.0, 1.0, 1.0, grad_norm=math.inf)
    assert run.policy.steps == 1
    run.follow(3.0, 1.0, 1.0, 1.0, 1.0)
    run.follow(2.0, 1.0, 1.0, 1.0, 1.0)
    assert run.policy.before_P.tolist() == pytest.approx([2.0, 1.0, 1.0, 1.0, 1.0])


def test_state_goes_and_returns() -> None:
    one, two = Run(), Run()
    for step in range(5):
        one.follow(1.0, 2.0, 3.0, 4.0 + step, 9.0)
    tensors, plain = one.policy.state()
    two.policy.load_state({name: value.clone() for name, value in tensors.items()}, dict(plain))
    two.step = one.step
    for run in (one, two):
        run.follow(1.5, 2.0, 3.0, 4.0, 9.0)
    assert one.policy.state()[1] == two.policy.state()[1]
    assert all(torch.equal(value, two.policy.state()[0][name]) for name, value in one.policy.state()[0].items())

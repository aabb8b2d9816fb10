"""Objectives that look into the backbone by hooks see the same rows where it is compiled."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.unit.objective.small import batch_of, checked, network_of


@pytest.mark.parametrize(("option", "changed"), [
    ("neftune", {"alpha": 50.0}), ("fgm", {"epsilon": 0.3}), ("pgd", {}), ("freelb", {}), ("smart", {}),
])  # fmt: skip
def test_a_compiled_backbone_changes_no_loss(
    option: str, changed: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, batch = network_of("bert"), batch_of()
    part, trunk, _ = checked(option, network, **changed)
    expected = part.loss(trunk, batch).total.item()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    trunk.compile()
    trunk.reset()
    trunk.logits("clean", batch)  # what is compiled has seen a pass without hooks
    assert part.loss(trunk, batch).total.item() == pytest.approx(expected, rel=1e-5)

"""Losses of rows against their definitions: focal, smoothed, weighted by class, counted by shares."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from llmtune.core.errors import ConfigError
from llmtune.task.losses import class_weights, loss_by_row
from tests.unit.objective.small import task_of

LABEL = torch.tensor([0, 2, 1, 1, 2])


def logits(width: int = 3) -> torch.Tensor:
    return torch.randn(5, width, generator=torch.Generator().manual_seed(0)) * 2


def test_focal_loss_is_cross_entropy_times_what_is_missing() -> None:
    found = loss_by_row("single_label", logits(), LABEL, focal_gamma=2.0)
    p = logits().softmax(-1)[range(5), LABEL]
    torch.testing.assert_close(found, -((1 - p) ** 2) * p.log())
    ones = (torch.rand(5, 3, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    p = torch.where(ones.bool(), logits().sigmoid(), 1 - logits().sigmoid())
    found = loss_by_row("multi_label", logits(), ones, focal_gamma=1.5)
    torch.testing.assert_close(found, (-((1 - p) ** 1.5) * p.log()).sum(-1))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_focus_near_0_is_cross_entropy(smoothing: float) -> None:
    weights = torch.tensor([1.0, 0.5, 3.0])
    found = loss_by_row("single_label", logits(), LABEL, weights_C=weights, label_smoothing=smoothing, focal_gamma=1e-6)
    expected = F.cross_entropy(logits(), LABEL, weights, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gradients_are_finite_where_a_row_is_right_without_doubt(gamma: float) -> None:
    for problem, label in (("single_label", LABEL[:1]), ("multi_label", torch.tensor([[1.0, 0.0, 0.0]]))):
        sure = torch.tensor([[60.0, -60.0, -60.0]], requires_grad=True)
        loss_by_row(problem, sure, label, focal_gamma=gamma).sum().backward()
        assert bool(sure.grad.isfinite().all())  # type: ignore[union-attr]


def test_weights_by_effective_number() -> None:
    targets = [0] * 90 + [1] * 9 + [2]
    found = class_weights("effective", targets, 3, 0.99)
    expected = torch.tensor([(1 - 0.99) / (1 - 0.99**count) for count in (90, 9, 1)])
    torch.testing.assert_close(found, expected / expected.mean())
    torch.testing.assert_close(class_weights("effective", targets, 3, 0.0), torch.ones(3))
    balanced = class_weights("balanced", targets, 3, 0.0)
    nearly = class_weights("effective", targets, 3, 0.999999)
    torch.testing.assert_close(nearly, balanced / balanced.mean(), rtol=1e-3, atol=1e-4)


def test_rows_count_by_their_share() -> None:
    task, share = task_of(_class_weights_C=torch.tensor([2.0, 0.5, 1.0])), torch.tensor([1.0, 0.25, 0.0, 0.5, 1.0])
    found = task.loss(logits(), {"label": LABEL}, share)
    rows = [task.loss(logits()[row : row + 1], {"label": LABEL[row : row + 1]}) for row in range(5)]
    torch.testing.assert_close(found.total, sum(row.total * part for row, part in zip(rows, share)))
    torch.testing.assert_close(found.count, sum(row.count * part for row, part in zip(rows, share)))


def options(**changed: Any) -> Any:
    usual = {"label_smoothing": 0.0, "class_weights": "none", "effective_beta": 0.999, "focal_gamma": 0.0}
    return SimpleNamespace(**{**usual, **changed})


def test_what_does_not_fit_the_problem_is_told_all_at_once() -> None:
    everything = options(label_smoothing=0.1, class_weights="effective", focal_gamma=1.0)
    with pytest.raises(ConfigError) as caught:
        task_of("regression").set_loss(everything, [1.0])
    assert [fault.where for fault in caught.value.faults] == [
        "train.label_smoothing", "train.class_weights", "train.focal_gamma",
    ]  # fmt: skip
    assert str(caught.value.faults[2]).endswith("type train.focal_gamma=0")
    task_of("multi_label").set_loss(options(focal_gamma=1.0), [[0]])

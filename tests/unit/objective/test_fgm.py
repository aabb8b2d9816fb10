"""fgm: its loss and gradient are those of a few lines of plain torch, row by row."""

from __future__ import annotations

import pytest
import torch

from llmtune.core.types import Loss
from tests.unit.objective.small import (
    PROBLEMS,
    assert_same_gradients,
    batch_of,
    checked,
    gradients_of,
    network_of,
    settings_of,
    with_checkpoints,
)


def plain_total(network, task, batch, epsilon):
    """Each row alone, with nothing of llmtune but the task's loss."""
    total = torch.zeros(())
    for row in range(len(batch.row_ids)):
        length = int(batch.views["clean"]["attention_mask"][row].sum())
        ids = batch.views["clean"]["input_ids"][row : row + 1, :length]
        words = network.get_input_embeddings()(ids)
        target = {"label": batch.targets["label"][row : row + 1]}
        start = words.detach().requires_grad_()
        clean = task.loss(network(inputs_embeds=start).logits, target).total
        (steep,) = torch.autograd.grad(clean, start)
        moved = words + epsilon * words.detach().norm() * steep / steep.norm()
        total = total + task.loss(network(inputs_embeds=moved).logits, target).total
    return total


@pytest.mark.parametrize("problem", PROBLEMS)
def test_loss_and_gradient_are_those_of_plain_torch(problem: str) -> None:
    network, batch = network_of("bert", problem), batch_of(problem)
    part, trunk, task = checked("fgm", network, problem, epsilon=0.3)
    expected = plain_total(network, task, batch, 0.3)
    found = part.loss(trunk, batch)
    assert found.count.item() == part.count(batch) == {"multi_label": 18}.get(problem, 6)
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(gradients_of(network, found.total), gradients_of(network, expected), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_loss_is_higher_than_the_clean_one_and_no_row_minds_its_neighbours(family: str) -> None:
    network = network_of(family)
    part, trunk, task = checked("fgm", network)
    whole: Loss = part.loss(trunk, batch_of())
    split = [part.loss(trunk, batch_of(rows=rows)) for rows in (slice(0, 2), slice(2, 6))]
    assert whole.total.item() == pytest.approx(sum(loss.total.item() for loss in split), rel=1e-5)
    clean = task.loss(trunk.logits("clean", batch_of()), batch_of().targets)
    assert whole.total.item() > clean.total.item()


def test_looking_for_the_change_leaves_no_gradient_and_it_works_beneath_a_frozen_bottom() -> None:
    network, batch = network_of("bert"), batch_of()
    part, trunk, _ = checked("fgm", network)
    for weight in network.bert.embeddings.parameters():
        weight.requires_grad_(False)
    total = part.loss(trunk, batch).total
    assert all(weight.grad is None for weight in network.parameters())
    grads = gradients_of(network, total)
    assert "classifier.weight" in grads
    assert not any("embeddings" in name for name in grads)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_finds_the_same_change(precision: torch.dtype) -> None:
    network, batch = network_of("bert"), batch_of()
    part, trunk, _ = checked("fgm", network)
    exact = part.loss(trunk, batch).total.item()
    with torch.autocast("cpu", dtype=precision):
        found = part.loss(trunk, batch).total
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact, rel=0.02)


def test_a_row_that_is_right_without_doubt_is_left_where_it_is() -> None:
    network, batch = network_of("bert"), batch_of()
    part, trunk, task = checked("fgm", network)
    with torch.no_grad():
        network.classifier.weight.zero_()  # no input moves the logits
    clean = task.loss(trunk.logits("clean", batch), batch.targets).total
    total = part.loss(trunk, batch).total
    assert total.item() == pytest.approx(clean.item(), rel=1e-6)
    assert all(bool(grad.isfinite().all()) for grad in gradients_of(network, total).values())


def test_gradient_checkpointing_changes_nothing() -> None:
    network, batch = network_of("bert", dropout=0.1), batch_of()
    part, trunk, _ = checked("fgm", network)
    trunk.draw = 5
    expected = gradients_of(network, part.loss(trunk, batch).total)
    with_checkpoints(network)
    assert_same_gradients(gradients_of(network, part.loss(trunk, batch).total), expected)


def test_epsilon_must_be_above_0() -> None:
    with pytest.raises(ValueError, match="epsilon: 0 is too small"):
        settings_of("fgm", epsilon=0)

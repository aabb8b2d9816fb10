"""pgd, freelb and smart against the same written out in plain torch, each row alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from llmtune.core.errors import ModelError
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
from tests.unit.objective.test_r_drop import apart

SIZES = {"step_size": 0.2, "radius": 0.25}
KINDS = ("pgd", "freelb", "smart")


def settings(option: str) -> dict[str, Any]:
    return {"steps": 3, **SIZES, **({"noise": 0.02} if option == "smart" else {})}


def shortened(change: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
    return change * min(1.0, float(most / change.norm())) if float(change.norm()) else change


def climbed(words: torch.Tensor, change: torch.Tensor, measure: Callable[..., torch.Tensor]) -> torch.Tensor:
    size = words.detach().norm()
    start = change.detach().requires_grad_()
    (steep,) = torch.autograd.grad(measure(words.detach() + start), start)
    return shortened(change + SIZES["step_size"] * size * steep / steep.norm(), SIZES["radius"] * size)


def plain_row(option: str, network: Any, task: Any, problem: str, words: torch.Tensor, target: Any, noise: Any) -> Any:
    def loss(embedded: torch.Tensor) -> torch.Tensor:
        return task.loss(network(inputs_embeds=embedded).logits, target).total

    if option == "pgd":
        change = torch.zeros_like(words)
        for _ in range(3):
            change = climbed(words, change, loss)
        return loss(words + change)
    size = words.detach().norm() / words.numel() ** 0.5
    if option == "freelb":
        change, total = noise * SIZES["radius"] * size, 0.0
        for number in range(3):
            total = total + loss(words + change) / 3
            change = climbed(words, change, loss) if number < 2 else change
        return total
    clean = network(inputs_embeds=words).logits
    change = noise * 0.02 * size
    for _ in range(3):
        change = climbed(words, change, lambda at: apart(problem, clean.detach(), network(inputs_embeds=at).logits))
    return apart(problem, clean, network(inputs_embeds=words + change).logits)


def noise_of(network: Any, option: str, batch: Any) -> torch.Tensor:
    from llmtune.model.trunk import Trunk
    from llmtune.objective.embedding_noise import Changes

    return Changes(option, Trunk(network), batch).uniform(torch.zeros(*batch.views["clean"]["input_ids"].shape, 16))


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("option", KINDS)
def test_loss_and_gradient_are_those_of_plain_torch(option: str, problem: str) -> None:
    network, batch = network_of("bert", problem), batch_of(problem)
    part, trunk, task = checked(option, network, problem, **settings(option))
    noise, expected = noise_of(network, option, batch), torch.zeros(())
    for row in range(6):
        length = int(batch.views["clean"]["attention_mask"][row].sum())
        words = network.get_input_embeddings()(batch.views["clean"]["input_ids"][row : row + 1, :length])
        target = {"label": batch.targets["label"][row : row + 1]}
        own = noise[row : row + 1, :length]
        assert not noise[row, length:].any()
        expected = expected + plain_row(option, network, task, problem, words, target, own)
    found = part.loss(trunk, batch)
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-3)
    close = {"rtol": 5e-3, "atol": 5e-3 * max(1.0, abs(expected.item()))}
    assert_same_gradients(gradients_of(network, found.total), gradients_of(network, expected), **close)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "bart"])
@pytest.mark.parametrize("option", [*KINDS, "fgm", "neftune"])
def test_words_are_moved_in_every_family(option: str, family: str) -> None:
    """In T5 and BART `get_input_embeddings()` is never called: encoder and decoder look words up themselves."""
    network = network_of(family)
    strong = {"neftune": {"alpha": 50.0}, "fgm": {"epsilon": 0.3}}.get(option, settings(option))
    part, trunk, task = checked(option, network, **strong)
    batch = batch_of()
    batch.views["clean"]["input_ids"][:, -1] = 1  # T5 and BART read a row off at its last end of sequence
    batch.views["clean"]["attention_mask"][:] = 1
    total = part.loss(trunk, batch).total.item()
    clean = task.loss(trunk.logits("clean", batch), batch.targets).total.item()
    assert abs(total - (0 if option == "smart" else clean)) > 1e-3


def test_a_model_that_looks_no_words_up_is_refused() -> None:
    network, batch = network_of("bert"), batch_of()
    part, trunk, _ = checked("neftune", network)
    table = network.bert.embeddings.word_embeddings
    network.bert.embeddings.word_embeddings = torch.nn.Embedding(*table.weight.shape)
    network.get_input_embeddings = lambda: table
    with pytest.raises(ModelError, match="looks up nowhere"):
        part.loss(trunk, batch)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("option", [*KINDS, "neftune"])
def test_no_row_minds_its_neighbours(option: str, family: str) -> None:
    network = network_of(family)
    part, trunk, _ = checked(option, network)
    totals = []
    for rows in (slice(None), slice(0, 2), slice(2, 6)):
        trunk.reset()
        totals.append(part.loss(trunk, batch_of(rows=rows)).total.item())
    assert totals[0] == pytest.approx(totals[1] + totals[2], rel=1e-3)


@pytest.mark.parametrize("option", [*KINDS, "neftune"])
def test_searching_leaves_no_gradient_and_checkpointing_changes_nothing(option: str) -> None:
    network, batch = network_of("bert", dropout=0.1), batch_of()
    part, trunk, _ = checked(option, network)
    trunk.draw = 5
    total = part.loss(trunk, batch).total
    assert all(weight.grad is None for weight in network.parameters())
    expected = gradients_of(network, total)
    trunk.reset()
    with_checkpoints(network)
    assert_same_gradients(gradients_of(network, part.loss(trunk, batch).total), expected)


def test_smart_draws_the_dropout_of_the_clean_run() -> None:
    network, batch = network_of("bert", dropout=0.3), batch_of()
    part, trunk, _ = checked("smart", network, noise=1e-6, radius=1e-6)
    trunk.draw = 5
    assert part.loss(trunk, batch).total.item() < 1e-6


def test_neftune_is_the_loss_on_noise_of_the_papers_size() -> None:
    network, batch = network_of("bert"), batch_of()
    part, trunk, task = checked("neftune", network, alpha=3.0)
    mask = batch.views["clean"]["attention_mask"]
    scale = 3.0 / (mask.sum(1) * 16).sqrt()
    noise = noise_of(network, "neftune", batch) * scale[:, None, None]
    assert 0.9 < float((noise.abs().amax((1, 2)) / scale).mean()) <= 1
    words = network.get_input_embeddings()(batch.views["clean"]["input_ids"])
    expected = task.loss(network(inputs_embeds=words + noise, attention_mask=mask).logits, batch.targets).total
    found = part.loss(trunk, batch).total
    torch.testing.assert_close(found, expected)
    assert_same_gradients(gradients_of(network, found), gradients_of(network, expected))
    assert (noise_of(network, "neftune", batch_of(rows=slice(3, 4)))[0] == noise_of(network, "neftune", batch)[3]).all()


@pytest.mark.parametrize(("option", "wrong"), [
    ("pgd", {"steps": 0}), ("freelb", {"radius": 0}), ("smart", {"noise": 0}), ("neftune", {"alpha": -1}),
])  # fmt: skip
def test_sizes_must_be_above_0(option: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is too small"):
        settings_of(option, **wrong)

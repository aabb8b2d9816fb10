"""r_drop: with `supervised` the sum is the paper's loss; without dropout it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from llmtune.core.errors import ConfigError, ModelError
from llmtune.freeze_policy.head_only import HeadOnly
from llmtune.model.trunk import Trunk
from tests.tiny import TINY, prepared_of, write_rows
from tests.unit.objective.small import (
    PROBLEMS,
    assert_same_gradients,
    batch_of,
    gradients_of,
    network_of,
    parts_of,
    settings_of,
    task_of,
)


def kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return F.kl_div(second.log_softmax(-1), first.log_softmax(-1), log_target=True, reduction="sum")


def apart(problem: str, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    if problem == "regression":
        return F.mse_loss(first, second, reduction="sum")
    if problem == "multi_label":  # a label that holds or not is a class of two
        first, second = (torch.stack([logits, torch.zeros_like(logits)], -1) for logits in (first, second))
    return (kl(first, second) + kl(second, first)) / 2


@pytest.mark.parametrize("problem", PROBLEMS)
def test_with_supervised_it_is_the_papers_loss(problem: str) -> None:
    network, batch, task = network_of("bert", problem, dropout=0.3), batch_of(problem), task_of(problem)
    parts, trunk = parts_of(network, task), Trunk(network)
    part, supervised = settings_of("r_drop", alpha=0.7).build(parts), settings_of("supervised").build(parts)
    trunk.draw = 9
    total = supervised.loss(trunk, batch).total + part.loss(trunk, batch).total
    found = gradients_of(network, total)
    trunk.reset()
    first, second = trunk.logits("clean", batch), trunk.again("clean", batch, "r_drop")
    assert not torch.equal(first, second)
    losses = [task.loss(logits, batch.targets).total for logits in (first, second)]
    expected = sum(losses) + 0.7 * apart(problem, first, second)
    torch.testing.assert_close(total, expected)
    assert_same_gradients(found, gradients_of(network, expected))


def test_class_weights_hold_for_the_divergence_too() -> None:
    task = task_of(_class_weights_C=torch.tensor([2.0, 0.5, 1.0]))
    first, second = torch.randn(6, 3), torch.randn(6, 3)
    targets = batch_of().targets
    found = task.divergence(first, second, targets)
    weights = task._class_weights_C[targets["label"]]
    rows = [kl(first[row], second[row]) + kl(second[row], first[row]) for row in range(6)]
    torch.testing.assert_close(found.total, (torch.stack(rows) / 2 * weights).sum())
    assert found.count.item() == pytest.approx(float(weights.sum()))


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_model_without_dropout_is_refused(family: str) -> None:
    settings = settings_of("r_drop")
    prospect = parts_of(network_of(family, dropout=0.1), task_of())
    settings.check(prospect)
    prospect = parts_of(network_of(family, dropout=0.0), task_of())
    with pytest.raises(ConfigError, match=r"has no dropout where it trains.*type model.dropout=0.1"):
        settings.check(prospect)


def test_dropout_of_what_is_frozen_is_never_drawn() -> None:
    """Frozen places are in eval mode: under a linear probe GPT-2's dropout is that of its backbone, which sleeps."""
    settings, prospect = settings_of("r_drop"), parts_of(network_of("gpt2", dropout=0.1), task_of())
    prospect.config.freeze_policy = HeadOnly(name="head_only", lr_factor=20)
    with pytest.raises(ConfigError, match=r"freeze_policy=head_only"):
        settings.check(prospect)
    prospect = parts_of(network_of("bert", dropout=0.1), task_of())
    prospect.config.freeze_policy = HeadOnly(name="head_only", lr_factor=20)
    settings.check(prospect)  # BERT's classifier has dropout of its own


@pytest.mark.parametrize(("words", "says"), [
    (["objective=[supervised,r_drop]", "model.dropout=0"], "no dropout"),
    (["objective=[supervised,contrastive]", "freeze_policy=head_only"], "nothing ever trains"),
    (["objective=[supervised,supervised_contrastive]", "freeze_policy=head_only"], "nothing ever trains"),
    (["objective=[supervised,cosine_pairs]", "freeze_policy=head_only"], "nothing ever trains"),
])  # fmt: skip
def test_what_would_learn_nothing_is_refused(words: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        prepared_of(*TINY, *write_rows(tmp_path), *words)


@pytest.mark.parametrize("option", ["contrastive", "supervised_contrastive", "cosine_pairs"])
def test_rows_of_two_sides_have_no_vector(option: str, tmp_path: Path) -> None:
    words = [word for word in TINY if "architecture" not in word]
    with pytest.raises(ModelError, match="t5 has two"):
        prepared_of(*words, *write_rows(tmp_path), "model=tiny_t5", f"objective=[supervised,{option}]")

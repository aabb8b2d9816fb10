"""What `auto` comes to."""

from __future__ import annotations

import pytest

from llmtune.plan import peak_lr
from tests.tiny import config_of

FACTORS = {
    "adamw": 1, "adam": 1, "adamw_8bit": 1, "adafactor": 1, "muon": 3, "lion": 0.3, "schedule_free_adamw": 2,
    "sgd": 300,
}  # fmt: skip


@pytest.mark.parametrize("option", FACTORS)
def test_automatic_learning_rate_is_the_models_for_the_optimizer(option: str) -> None:
    words = ("task=sentiment", "model=minilm", f"optimizer={option}")
    config = config_of(*words)
    assert peak_lr(config) == pytest.approx(FACTORS[option] * config.model.recommended.lr)
    assert peak_lr(config_of(*words, "optimizer.lr=0.01")) == 0.01


def test_a_policy_that_trains_little_trains_it_faster() -> None:
    whole, head = (config_of("task=sentiment", f"freeze_policy={name}") for name in ("none", "head_only"))
    assert peak_lr(head) == pytest.approx(20 * peak_lr(whole))

"""What LoRA, DoRA, rank-stabilised LoRA and QLoRA share: their ranges and their peft config."""

from __future__ import annotations

from typing import Any

from llmtune.adapter.targets import check_targets, linear_targets
from llmtune.adapter.tuner import has_conv1d
from llmtune.core.ranges import at_least, between, positive


def check_low_rank(settings: Any) -> None:
    """Raises ValueError for a setting out of range."""
    at_least("rank", settings.rank, 1)
    positive("alpha", settings.alpha)
    between("dropout", settings.dropout, 0, 0.9)
    check_targets(settings.targets)
    positive("lr_factor", settings.lr_factor)


def low_rank_config(settings: Any, network: Any, **kind: Any) -> Any:
    """peft's LoraConfig for this network; `kind`: `use_dora=True` or `use_rslora=True`."""
    from peft import LoraConfig

    names = linear_targets(network, settings.targets)
    return LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=names,
        fan_in_fan_out=has_conv1d(network, names), **kind,
    )  # fmt: skip

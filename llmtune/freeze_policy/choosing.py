"""What freeze policies share: numbers of layers, ranges of them, and faults that several policies can have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.ranges import at_least


def check_number(field: str, value: float, low: float) -> None:
    """Raises ValueError unless `value` is a whole number of layers from `low` on, or a share below 1."""
    at_least(field, value, low if value >= 1 or not value else 0)
    if value > 1 and value % 1:
        raise ValueError(f"{field}: {value} is no number of layers; whole from 1 on, a share below")


def number_of_layers(value: float, layers: Any) -> int:
    """A share of all layers is rounded to whole ones."""
    return round(value * layers.num_layers) if value < 1 else int(value)


def refuse_unsure_layers(prospect: Any, policy: str) -> None:
    """Raises ConfigError if it is not known which modules the model's layers are."""
    if prospect.layers.unsure:
        family = prospect.model_config.model_type
        raise ConfigError(
            Fault("freeze_policy", f"{policy} goes by layers, and which modules those of {family} models are is not "
                  f"known: {prospect.layers.unsure}", "none, head_only, bias_only, norms_only or pattern",
                  "freeze_policy=pattern with names of modules, or freeze_policy=none")
        )  # fmt: skip


def refuse_more_layers(field: str, value: float, layers: Any) -> None:
    """Raises ConfigError if the model has fewer layers."""
    if value > layers.num_layers:
        raise ConfigError(
            Fault(f"freeze_policy.{field}", f"{value:g}, but the model has {layers.num_layers} layers",
                  f"0 to {layers.num_layers}, or a share below 1")
        )  # fmt: skip


def names_of(numbers: Iterable[int]) -> list[str]:
    return [f"layer {number}" for number in numbers]


def parse_layers(field: str, value: int | str | list[int | str]) -> list[int]:
    """Layer numbers, sorted: 3, "10,16-17", [10, "16-17"].

    Raises:
        ValueError: something in it is neither a number nor a range.
    """
    given = value if isinstance(value, list) else str(value).split(",")
    numbers: set[int] = set()
    for item in given:
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", str(item))
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(f"{field}: {item!r} is no layer; numbers from 0 and ranges such as 10,16-17")
        numbers |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(numbers)


def refuse_empty_head(prospect: Any, policy: str) -> None:
    """Raises ConfigError if the model has no head of its own to begin with."""
    layers = prospect.layers
    if layers.trainable_at("head"):
        return
    tied = next((layers.plain[name] for name, place in layers.tied.items() if place == "head"), None)
    why = f"its output matrix is tied to the embeddings ({tied}), which stay frozen" if tied else "it has no head"
    raise ConfigError(
        Fault("freeze_policy", f"{policy} trains the head, but this model has none of its own: {why}", "",
              "freeze_policy=top_layers")
    )  # fmt: skip


def refuse_idle_adapter(prospect: Any, policy: str, ever: frozenset[str]) -> None:
    """Raises ConfigError if there is an adapter and no parameter of it is among those that `ever` train."""
    adapters = prospect.layers.adapters
    if adapters and not adapters & ever:
        raise ConfigError(
            Fault("freeze_policy", f"{policy} never trains the adapter ({prospect.config.adapter.name})", "",
                  "freeze_policy=none, which trains the adapter and the head, or adapter=none")
        )  # fmt: skip


def refuse_adapter(prospect: Any, policy: str, what: str) -> None:
    """Raises ConfigError if there is an adapter, which keeps the weights beneath as they are."""
    if prospect.layers.adapters:
        raise ConfigError(
            Fault("freeze_policy", f"{policy} trains the model's own {what}, while an adapter "
                  f"({prospect.config.adapter.name}) keeps the model as it is", "one of the two",
                  "freeze_policy=none, which trains the adapter and the head, or adapter=none")
        )  # fmt: skip

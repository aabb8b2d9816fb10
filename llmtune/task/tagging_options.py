"""Settings of the loss that a head of a tagger takes, and those that it has no use for.

Legend: R sequences, T tokens, C tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from llmtune.core.errors import ConfigError, Fault
from llmtune.data.tagging.encoding import NOT_SCORED
from llmtune.task.class_options import OFF
from llmtune.task.losses import class_weights


def refuse_options(options: Any, head: str) -> None:
    """ConfigError where settings are set that only a head for single words has a use for."""
    faults = [
        Fault(f"train.{key}", f"set for task.head={head}", "for task.head=linear, which scores each word by itself",
              f"type train.{key}={off}")
        for key, off in OFF.items()
        if getattr(options, key) != off
    ]  # fmt: skip
    if faults:
        raise ConfigError(*faults)


def loss_options(options: Any, targets: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, Any]:
    """Arguments for task.losses.loss_by_row from the `train` settings.

    Raises:
        ConfigError: weights of unknown tags.
    """
    chosen = options.class_weights
    found: dict[str, Any] = {"label_smoothing": options.label_smoothing, "focal_gamma": options.focal_gamma}
    if isinstance(chosen, Mapping):
        unknown = [name for name in chosen if name not in names]
        if unknown:
            raise ConfigError(
                *(Fault("train.class_weights", f"no tag {name!r}", f"tags: {', '.join(names)}") for name in unknown)
            )
        found["weights_C"] = torch.tensor([float(chosen.get(name, 1.0)) for name in names])
    elif chosen != "none":
        flat = [number for target in targets for number in target if number != NOT_SCORED]
        found["weights_C"] = class_weights(chosen, flat, len(names), options.effective_beta)
    return found


def word_weights(label_RT: torch.Tensor, options: Mapping[str, Any]) -> torch.Tensor:
    """Of each sequence the sum of its words' weights: (R,)."""
    scored_RT = label_RT != NOT_SCORED
    weights_C = options.get("weights_C")
    if weights_C is None:
        return scored_RT.sum(1)
    return weights_C.to(label_RT.device)[label_RT.clamp(min=0)].masked_fill(~scored_RT, 0.0).sum(1)

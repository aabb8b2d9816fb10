"""What ways of balancing share: which losses they balance, plain-number Adam, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Mapping

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts, Prospect


def balanced_names(parts: Parts) -> list[str]:
    """Objectives that the user chose, but those that are no task's loss (settings with `balanced = False`).

    `parts.network` is the Composite. An adapter's own terms are left alone.
    """
    chosen = {name for name, part in parts.config.objective.items() if getattr(part, "balanced", True)}
    return [name for name in parts.network.objectives if name.split("/")[0] in chosen]


def refuse_one_term(prospect: Prospect) -> None:
    """ConfigError where there is one loss alone."""
    parts = prospect.config.objective.values()
    if sum(getattr(part, "num_terms", 1) for part in parts if getattr(part, "balanced", True)) < 2:
        raise ConfigError(
            Fault("balance", f"{prospect.config.balance.name}, but there is one loss to balance", "two or more",
                  "type balance=fixed")
        )  # fmt: skip


def refuse_without_gradients(prospect: Prospect) -> None:
    """ConfigError where the gradient of each objective by itself can't be had, or would have nothing beside it."""
    config, name = prospect.config, prospect.config.balance.name
    faults = []
    if config.sampling.name != "together":
        faults.append(
            Fault("balance", f"{name} with sampling={config.sampling.name}",
                  "it compares the gradients of all objectives in each step", "type sampling=together")
        )  # fmt: skip
    if config.hardware.precision == "fp16":
        faults.append(
            Fault("hardware.precision", f"fp16 with balance={name}",
                  "the gradient of each objective by itself goes past the loss scaler", "type hardware.precision=bf16")
        )  # fmt: skip
    if config.hardware.compile:
        faults.append(
            Fault("hardware.compile", f"true with balance={name}",
                  "it goes back through a pass several times, which compiled code can't", "type hardware.compile=false")
        )  # fmt: skip
    if config.freeze_policy.name == "head_only":
        faults.append(
            Fault("balance", f"{name} with freeze_policy=head_only", "objectives share no parameter that trains",
                  "type balance=fixed")
        )  # fmt: skip
    if faults:
        raise ConfigError(*faults)


class Adam:
    """Adam (arXiv 1412.6980) on plain numbers by name, alike on all processes."""

    def __init__(self, lr: float):
        self.lr = lr
        self.moments: dict[str, list[float]] = {}
        """name -> mean of the gradient, mean of its square, steps"""

    def change(self, name: str, gradient: float) -> float:
        """What to add to the number `name`."""
        mean, square, steps = self.moments.get(name, [0.0, 0.0, 0])
        mean, square, steps = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2, steps + 1
        self.moments[name] = [mean, square, steps]
        mean, square = mean / (1 - 0.9**steps), square / (1 - 0.999**steps)
        return -self.lr * mean / (math.sqrt(square) + 1e-8)


def means(sums: Mapping[str, float], names: list[str]) -> dict[str, float]:
    """Mean loss of each objective among `names` that a step had items of; `sums` of a StepResult."""
    return {name: sums[name] / sums[f"{name}/count"] for name in names if sums.get(f"{name}/count")}

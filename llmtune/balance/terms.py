"""What ways of balancing share: plain-number Adam, means of losses, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Mapping

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Prospect
from llmtune.core.terms import Kind, falls, num_terms


def refuse_one_term(prospect: Prospect, kind: Kind) -> None:
    """ConfigError where fewer than two losses are of the kind (`is_balanced` or `falls`) that the balance weighs."""
    config = prospect.config
    number = num_terms(config, kind)
    if number >= 2:
        return
    given = f"{config.balance.name}, but there is {'one' if number else 'no'} loss to balance"
    beside = [name for name, settings in config.objective.items() if not kind(settings)]
    if beside:
        given += f" beside {', '.join(beside)}, which {'keep their' if len(beside) > 1 else 'keeps its'} own weight"
    allowed = "two or more losses" + (" that don't start at 0" if kind is falls else "")
    raise ConfigError(Fault("balance", given, allowed, "type balance=fixed"))


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

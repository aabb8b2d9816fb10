"""Weights stay near those that the model came with (L2-SP; Li, Grandvalet and Davoine, arXiv 1802.01483)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.core.parts import Parts, Prospect
from llmtune.core.protocols import Views
from llmtune.core.ranges import at_least, weight
from llmtune.core.schedules import weight_schedule
from llmtune.core.types import Batch, Loss

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class L2Sp:
    name: str
    weight: float | str
    new_weights: float

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        at_least("new_weights", self.new_weights, 0)

    def build(self, parts: Parts) -> Nearness:
        from llmtune.objective.starting_weights import Starts, held_and_new

        held, new = held_and_new(parts)
        network = parts.network
        others = {name: weight for name, weight in network.named_parameters() if name in new}
        schedule = weight_schedule(self.weight, parts.num_steps)
        return Nearness(schedule, Starts(network, held), others, self.new_weights)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError if nothing that the model came with trains."""
        from llmtune.objective.starting_weights import held_and_new, refuse_nothing_to_hold

        refuse_nothing_to_hold(prospect, self.name, held_and_new(prospect)[0])


class Nearness:
    """|w - start|^2 / 2 over the backbone's weights plus new_weights |v|^2 / 2 over new ones (head, adapter).

    A number of the step and not of rows: each micro-batch gives it once for each of its rows, so that their sum,
    divided by the rows of the step, is the number again, however a step is split.
    """

    name = "l2_sp"
    feed = "task"

    def __init__(self, weight: Callable[[int], float], starts: Any, others: dict[str, torch.Tensor], share: float):
        self.weight = weight
        self.starts = starts
        self.others = others
        self.share = share

    def count(self, batch: Batch) -> float:
        return float(len(batch.row_ids))

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        import torch

        from llmtune.objective.starting_weights import SquaredDistance

        held = {name: weight for name, weight in self.starts.parameters.items() if weight.requires_grad}
        new = [weight for weight in self.others.values() if weight.requires_grad] if self.share else []
        starts = [*map(self.starts.of, held), *[None] * len(new)]
        importances = [*[None] * len(held), *[torch.tensor(self.share, device=weight.device) for weight in new]]
        device = batch.views["clean"]["input_ids"].device
        count = torch.tensor(self.count(batch), device=device)
        if not starts:  # a schedule has not come to any of them yet
            return Loss(torch.zeros((), device=device), count)
        return Loss(SquaredDistance.apply(starts, importances, *held.values(), *new) * count, count)

"""The weights that the backbone began with, and the squared distance from them: what L2-SP, EWC and mixout share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.protocols import Views
from llmtune.core.types import EVERY_FEED, Batch, Loss
from llmtune.freeze_policy.phases import will_train


class Starts:
    """Copies of what the backbone's weights are when the parts of a run are made: the pretrained ones.

    A run that is gone on with loads the same weights first and then its checkpoint, so nothing of this is saved.

    Args:
        names: of `network`'s parameters that are to be remembered.
    """

    def __init__(self, network: torch.nn.Module, names: frozenset[str]):
        self.parameters = {name: weight for name, weight in network.named_parameters() if name in names}
        self._starts = {name: weight.detach().clone() for name, weight in self.parameters.items()}

    def of(self, name: str) -> torch.Tensor:
        """The starting weight, where the parameter is."""
        start, weight = self._starts[name], self.parameters[name]
        if start.device != weight.device:
            start = self._starts[name] = start.to(weight.device)
        return start


def held_and_new(where: Any) -> tuple[frozenset[str], frozenset[str]]:
    """Of the task model's parameters that train at some step: those of the backbone itself, and all others.

    `where`: Parts or Prospect.
    """
    layers, network, ever = where.layers, where.network, will_train(where)
    inside = {name for name in layers.places if name.startswith(f"{network.base_model_prefix}.")}
    if not hasattr(network, network.base_model_prefix):
        inside = layers.places.keys() - layers.at("head")
    held = (ever & inside) - layers.adapters
    return frozenset(held), frozenset(ever - held)


def refuse_nothing_to_hold(prospect: Any, objective: str, names: frozenset[str]) -> None:
    """Raises ConfigError if no weight of the backbone trains at any step."""
    if not names:
        raise ConfigError(
            Fault(f"objective.{objective}", "no weight that the model came with is ever trained "
                  f"(freeze_policy={prospect.config.freeze_policy.name}, adapter={prospect.config.adapter.name}), so "
                  "all of them stay as they are without it", "",
                  "type freeze_policy=none adapter=none, or leave it out")
        )  # fmt: skip


class Nearness:
    """sum_i importance_i (w_i - start_i)^2 / 2 over the backbone's weights; and a share of v^2 / 2 over `others`.

    A number of the step and not of rows: each micro-batch gives it once for each of its rows, so that their sum,
    divided by the rows of the step, is the number again, however a step is split.

    Args:
        importances: by name, shaped as the weights; None: all 1.
        others: weights that are new (head, adapter), whose start counts as 0.
    """

    feed = EVERY_FEED
    """it pulls in each step, whoever's rows the step reads"""

    def __init__(
        self, name: str, weight: Callable[[int], float], starts: Starts, *,
        importances: Mapping[str, torch.Tensor] | None = None,
        others: Mapping[str, torch.Tensor] | None = None, others_share: float = 0.0,
    ):  # fmt: skip
        self.name = name
        self.weight = weight
        self.starts = starts
        self.importances = dict(importances or {})
        self.others = dict(others or {}) if others_share else {}
        self.others_share = others_share

    def count(self, batch: Batch) -> float:
        return float(len(batch.row_ids))

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        device = next(iter(batch.views["clean"].values())).device
        held = {name: weight for name, weight in self.starts.parameters.items() if weight.requires_grad}
        new = [weight for weight in self.others.values() if weight.requires_grad]
        count = torch.tensor(self.count(batch), device=device)
        if not held and not new:  # a schedule has not come to any of them yet
            return Loss(torch.zeros((), device=device), count)
        share = torch.tensor(self.others_share, device=device)
        distance = SquaredDistance.apply(
            [*map(self.starts.of, held), *[None] * len(new)],
            [*(self._importance(name, device) for name in held), *[share] * len(new)],
            *held.values(), *new,
        )  # fmt: skip
        return Loss(distance * count, count)

    def _importance(self, name: str, device: torch.device) -> torch.Tensor | None:
        found = self.importances.get(name)
        if found is not None and found.device != device:
            found = self.importances[name] = found.to(device)
        return found


class SquaredDistance(torch.autograd.Function):
    """sum_i importance_i (w_i - start_i)^2 / 2 over several tensors, keeping nothing but the tensors themselves.

    A start of None is 0, an importance of None is 1.
    """

    @staticmethod
    def forward(
        ctx: Any, starts: list[torch.Tensor | None], importances: list[torch.Tensor | None], *weights: torch.Tensor
    ) -> torch.Tensor:
        ctx.starts, ctx.importances = starts, importances
        ctx.save_for_backward(*weights)
        total = weights[0].new_zeros((), dtype=torch.float32)
        for moved, pull in _moved_and_pull(ctx, weights):
            total += torch.dot(pull.flatten().float(), moved.flatten().float()) / 2
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return None, None, *(pull * grad for _, pull in _moved_and_pull(ctx, ctx.saved_tensors))


def _moved_and_pull(ctx: Any, weights: Iterable[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for weight, start, importance in zip(weights, ctx.starts, ctx.importances):
        moved = weight.detach() if start is None else weight.detach() - start
        yield moved, moved if importance is None else moved * importance

"""The weights that the backbone began with, and the squared distance from them: what L2-SP, EWC and mixout share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import torch

from llmtune.core.errors import ConfigError, Fault


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
    from llmtune.run.console import Console

    layers, network, policy = where.layers, where.network, where.config.freeze_policy
    # a prospect has no console yet
    ever = _ever_trained(policy.build(SimpleNamespace(**{"console": Console(quiet=True), **vars(where)})), where)
    inside = {name for name in layers.places if name.startswith(f"{network.base_model_prefix}.")}
    if not hasattr(network, network.base_model_prefix):
        inside = layers.places.keys() - layers.at("head")
    held = (ever & inside) - layers.adapters
    return frozenset(held), frozenset(ever - held)


def _ever_trained(policy: Any, where: Any) -> frozenset[str]:
    steps = [step for step in getattr(policy, "steps_of_change", (0,)) if step < where.num_steps]
    return frozenset().union(*(policy.trainable(where.layers, step) for step in steps)) - where.layers.fixed


def refuse_nothing_to_hold(prospect: Any, objective: str, names: frozenset[str]) -> None:
    """Raises ConfigError if no weight of the backbone trains at any step."""
    if not names:
        raise ConfigError(
            Fault(f"objective.{objective}", "no weight that the model came with is ever trained "
                  f"(freeze_policy={prospect.config.freeze_policy.name}, adapter={prospect.config.adapter.name}), so "
                  "all of them stay as they are without it", "",
                  "type freeze_policy=none adapter=none, or leave it out")
        )  # fmt: skip


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

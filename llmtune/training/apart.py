"""The gradient of each objective by itself, added up over the forward passes and processes of one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from llmtune.hardware.machine import Machine

Gradient = list["torch.Tensor | None"]


class Apart:
    """One step's gradients, by objective, on the first of several groups of parameters in which any trains.

    Memory: one more set of gradients for each objective.
    """

    def __init__(self, network: nn.Module, groups: Sequence[frozenset[str]], machine: Machine):
        trains = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
        chosen = next((group for group in groups if group & trains.keys()), frozenset())
        self.parameters = [parameter for name, parameter in trains.items() if name in chosen]
        self.machine = machine
        self.found: dict[str, Gradient] = {}

    def add(self, losses: Mapping[str, torch.Tensor], *, keep_graph: bool) -> None:
        """The gradients of `losses` (scalars by objective). `keep_graph`: somebody goes back through it afterwards."""
        reachable = {name: loss for name, loss in losses.items() if loss.requires_grad} if self.parameters else {}
        for place, (name, loss) in enumerate(reachable.items()):
            again = keep_graph or place < len(reachable) - 1
            new = torch.autograd.grad(loss, self.parameters, retain_graph=again, allow_unused=True)
            before = self.found.get(name, [None] * len(new))
            self.found[name] = [one if two is None else two if one is None else one + two
                                for one, two in zip(before, new)]  # fmt: skip

    def gathered(self, names: Sequence[str], *, exchange: bool = True) -> dict[str, Gradient]:
        """Means over processes (each loss was scaled by their number) of the gradients of `names`, alike everywhere.

        `exchange` off: in the same memory those of this process alone, which then waits for no other.
        """
        empty: Gradient = [None] * len(self.parameters)
        found = {name: self.found.get(name, empty) for name in names}
        if self.machine.world == 1:
            return found
        reached = [float(item is not None) for name in names for item in found[name]]
        if exchange:
            reached = self.machine.add_up(reached)
        shared = {}
        for number, name in enumerate(names):
            start = number * len(self.parameters)
            shared[name] = self._mean(found[name], reached[start : start + len(self.parameters)], exchange)
        return shared

    def norms(self, names: Sequence[str], *, exchange: bool = True) -> dict[str, float]:
        """The norm of each objective's gradient."""
        return {name: sum(float(item.double().pow(2).sum()) for item in gradient if item is not None) ** 0.5
                for name, gradient in self.gathered(names, exchange=exchange).items()}  # fmt: skip

    def put(self, combined: Gradient) -> None:
        """Make `combined` the gradient of the parameters."""
        for parameter, gradient in zip(self.parameters, combined):
            parameter.grad = gradient

    def _mean(self, gradient: Gradient, reached: list[float], exchange: bool) -> Gradient:
        """In one exchange, over what any process reaches."""
        places = [place for place, number in enumerate(reached) if number]
        if not places:
            return gradient
        mine = [gradient[place] for place in places]
        filled = [torch.zeros_like(self.parameters[place]) if item is None else item
                  for place, item in zip(places, mine)]  # fmt: skip
        flat_P: Any = torch.cat([item.reshape(-1) for item in filled])
        if exchange:
            flat_P = self.machine.accelerator.reduce(flat_P, "mean")
        pieces = iter(flat_P.split([item.numel() for item in filled]))
        return [next(pieces).view_as(parameter) if number else None
                for parameter, number in zip(self.parameters, reached)]  # fmt: skip

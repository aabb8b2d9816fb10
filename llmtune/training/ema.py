"""Averages of the weights, evaluated and kept in their place: exponential, equal over the end of the run, or an
optimizer's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

Rate = Callable[[int], float]
"""share of the newest weights in the average after step t (from 0); 0: there is no average yet"""


class Average(Protocol):
    """What the loop and the checkpoint ask of an average."""

    @property
    def average(self) -> Mapping[str, torch.Tensor]: ...

    def update(self, step: int) -> None: ...

    def in_place(self) -> Any: ...

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]: ...

    def load_state(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None: ...


def exponential(decay: float) -> Rate:
    """1 - d with d = min(decay, (1 + t) / (10 + t)) (Polyak and Juditsky 1992).

    The smaller d of the first steps keeps the random start from weighing on short runs.
    """
    return lambda step: 1 - min(decay, (1 + step) / (10 + step))


def equal_from(share: float, num_steps: int) -> Rate:
    """Stochastic weight averaging (arXiv 1803.05407): the mean over all steps from `share` of the run on.

    One sample a step, not one an epoch: a fine-tuning run has few epochs, and neighbours cost nothing but a lerp.
    """
    first = min(math.floor(share * num_steps), num_steps - 1)
    return lambda step: 0.0 if step < first else 1 / (step - first + 1)


class WeightAverage:
    """average <- (1 - rate) average + rate weights, after each step, of the parameters that have ever trained.

    A parameter enters with the value it has after its first step under the average; a frozen one costs no memory
    and keeps its bits. Buffers (a batch norm's statistics; the models of transformers have none that train) are
    the network's own.
    """

    def __init__(self, module: nn.Module, rate: Rate):
        self.rate = rate
        self.parameters = dict(module.named_parameters())
        self.average: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        rate = self.rate(step)
        if rate == 0:
            self.average.clear()  # what a run that now goes on for longer averaged before
            return
        if self.average:
            torch._foreach_lerp_(list(self.average.values()), [self.parameters[name] for name in self.average], rate)
        for name, parameter in self.parameters.items():
            if parameter.requires_grad and name not in self.average:
                self.average[name] = parameter.detach().clone()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside this context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, value in self.average.items():
            parameter = self.parameters[name]
            parameter.data, self.average[name] = value, parameter.data

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return self.average, {}

    def load_state(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        self.average = {name: value.to(self.parameters[name].device) for name, value in tensors.items()}


class OptimizersAverage:
    """The average that an optimizer keeps in its own state (`averaged(parameter)`): nothing of it is stored twice."""

    def __init__(self, module: nn.Module, optimizer: Any):
        self.parameters = dict(module.named_parameters())
        self.optimizer = optimizer

    @property
    def average(self) -> dict[str, torch.Tensor]:
        values = {name: self.optimizer.averaged(parameter) for name, parameter in self.parameters.items()}
        return {name: value for name, value in values.items() if value is not None}

    def update(self, step: int) -> None:
        """The optimizer's step has done it."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside this context; afterwards exactly its own."""
        own = {name: parameter.data for name, parameter in self.parameters.items()}
        for name, value in self.average.items():
            self.parameters[name].data = value
        try:
            yield
        finally:
            for name, value in own.items():
                self.parameters[name].data = value

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {}, {}

    def load_state(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """There is none."""


def make_average(module: nn.Module, optimizer: Any, options: Any, num_steps: int) -> Average | None:
    """The average that TrainSettings (`ema`, `swa`) or the optimizer asks for. None: weights are kept as they are."""
    if options.ema is not None:
        return WeightAverage(module, exponential(options.ema))
    if options.swa is not None:
        return WeightAverage(module, equal_from(options.swa, num_steps))
    return OptimizersAverage(module, optimizer) if hasattr(optimizer, "averaged") else None

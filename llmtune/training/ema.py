"""An exponential moving average of the weights, evaluated and kept in their place (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """average <- d average + (1 - d) weights after each step, with d = min(decay, (1 + t) / (10 + t)).

    The smaller d of the first steps keeps the random start from weighing on short runs.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.parameters = dict(module.named_parameters())
        self.average = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.parameters.items():
            self.average[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside this context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.average[name] = self.average[name], parameter.data

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return self.average, {}

    def load_state(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        for name, value in tensors.items():
            self.average[name].copy_(value)

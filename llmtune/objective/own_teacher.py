"""A teacher made of the student's own weights: their average so far, or what they were at the start.

Legend: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.func import functional_call

from llmtune.core.parts import Parts
from llmtune.core.protocols import Views
from llmtune.core.schedules import weight_schedule
from llmtune.core.types import Batch, Loss
from llmtune.objective.soft_targets import distance_by_row, num_items
from llmtune.objective.starting_weights import held_and_new


class SelfDistillationLoss:
    """T^2 KL(teacher || student); the teacher is the student's network run without dropout on other weights."""

    name = "self_distillation"
    feed = "task"

    def __init__(self, settings: Any, parts: Parts):
        self.weight = weight_schedule(settings.weight, parts.num_steps)
        self.settings = settings
        self.problem_type = parts.task.problem_type
        self.network = parts.network
        trained = frozenset().union(*held_and_new(parts))
        self.own = {name: weight for name, weight in self.network.named_parameters() if name in trained}
        self.weights = {name: weight.detach().clone() for name, weight in self.own.items()}
        """the teacher's, of all parameters that ever train; it shares the others"""

    def count(self, batch: Batch) -> float:
        return num_items(self.problem_type, batch.targets["label"])

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        logits_BC, wanted_BC = trunk.logits("clean", batch), self._answers(batch)
        apart_B = distance_by_row(self.problem_type, logits_BC, wanted_BC, self.settings.temperature)
        return Loss(apart_B.sum(), torch.tensor(self.count(batch), device=apart_B.device))

    def follow(self, step: int, result: Any) -> None:
        """Average after a step: the smaller decay of the first ones forgets the start, as in train.ema."""
        if self.settings.teacher == "ema":
            decay = min(self.settings.decay, (1 + step) / (10 + step))
            self._move()
            with torch.no_grad():
                for name, weight in self.own.items():
                    self.weights[name].lerp_(weight, 1 - decay)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return (dict(self.weights) if self.settings.teacher == "ema" else {}), {}

    def load_state(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        self.weights |= {name: tensor.clone() for name, tensor in tensors.items()}

    def _move(self) -> None:
        """The weights to where the model is."""
        for name, weight in self.own.items():
            if self.weights[name].device != weight.device:
                self.weights[name] = self.weights[name].to(weight.device)

    @torch.no_grad()
    def _answers(self, batch: Batch) -> torch.Tensor:
        """The teacher's logits (B, C)."""
        self._move()
        modes = {module: module.training for module in self.network.modules()}
        self.network.eval()
        try:
            return functional_call(self.network, self.weights, kwargs=dict(batch.views["clean"])).logits
        finally:
            for module, mode in modes.items():
                module.training = mode

"""A teacher made of the student's own weights: their average so far, or what they were at the start.

Legend: B rows, C classes, N tokens, D width, V words of the vocabulary or classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from llmtune.core.parts import Parts
from llmtune.core.protocols import Views
from llmtune.core.schedules import weight_schedule
from llmtune.core.types import Batch, Loss
from llmtune.data.batches.feed import WANTED
from llmtune.objective.soft_targets import distance_by_row, num_items
from llmtune.objective.starting_weights import held_and_new
from llmtune.objective.token_answers import head_of, spoken, token_answers, token_distance


class SelfDistillationLoss:
    """T^2 KL(teacher || student) by row or by token; the teacher is the student's network run without dropout on
    other weights."""

    name = "self_distillation"
    feed = "task"

    def __init__(self, settings: Any, parts: Parts):
        self.weight = weight_schedule(settings.weight, parts.num_steps)
        self.settings = settings
        self.problem_type = parts.task.problem_type
        self.network = parts.network
        self.tokens = token_answers(parts.config, parts.task)
        self.view = "clean" if self.tokens is None else self.tokens.view
        self.head = None if self.tokens is None else head_of(self.network, self.tokens)
        trained = frozenset().union(*held_and_new(parts))
        self.own = {name: weight for name, weight in self.network.named_parameters() if name in trained}
        self.weights = {name: weight.detach().clone() for name, weight in self.own.items()}
        """the teacher's, of all parameters that ever train; it shares the others"""

    def prepare(self, batch: Batch) -> None:
        if self.tokens is not None:
            self.tokens.prepare(batch)

    def count(self, batch: Batch) -> float:
        if self.tokens is not None:
            return self.tokens.how_many(batch)
        return num_items(self.problem_type, batch.targets["label"])

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        self._move()
        temperature, teacher = self.settings.temperature, OnOtherWeights(self.network, self.weights, self.head)
        if self.tokens is None:
            own_BC, wanted_BC = trunk.logits("clean", batch), teacher.logits("clean", batch)
            total = distance_by_row(self.problem_type, own_BC, wanted_BC, temperature).sum()
        else:
            own = spoken(trunk, self.head, self.tokens, batch)
            other = spoken(teacher, None if self.head is None else teacher, self.tokens, batch)
            total = token_distance(own, other, temperature)
        return Loss(total, torch.tensor(self.count(batch), device=total.device))

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


class OnOtherWeights:
    """The network on other weights, without dropout and gradients: what a trunk, and a head, are to a model."""

    def __init__(self, network: Any, weights: Mapping[str, torch.Tensor], head: Any):
        self._parts = _Parts(network, head)
        self._weights = {f"network.{name}": weight for name, weight in weights.items()}
        self.num_words: int = getattr(head, "num_words", 0)

    def logits(self, view: str, batch: Batch) -> torch.Tensor:
        return self._run("whole", batch.views[view]).logits

    def output(self, view: str, batch: Batch) -> Any:
        """The backbone's ModelOutput."""
        return self._run("backbone", {name: values for name, values in batch.views[view].items() if name != WANTED})

    def __call__(self, states_ND: torch.Tensor) -> torch.Tensor:
        """Scores (N, V) of states, by the head."""
        return self._run("head", states_ND)

    @torch.no_grad()
    def _run(self, part: str, given: Any) -> Any:
        with _in_eval_mode(self._parts.network):
            return functional_call(self._parts, self._weights, (part, given))


class _Parts(nn.Module):
    """The parts of a network as one function of its weights, which functional_call can put others in the place of."""

    def __init__(self, network: Any, head: Any):
        super().__init__()
        self.network = network
        self._head = (head,)

    def forward(self, part: str, given: Any) -> Any:
        if part == "head":
            return self._head[0](given)
        return (self.network if part == "whole" else self.network.base_model)(**given)


@contextmanager
def _in_eval_mode(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode

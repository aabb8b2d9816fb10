"""The seams: what the loop asks of a task, an objective, a freeze policy, an optimizer, a watcher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from llmtune.core.types import Batch, Loss


class Stateful(Protocol):
    """A part whose next value depends on what was seen; everything else is a function of the step."""

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]: ...

    def load_state(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None: ...


class Views(Protocol):
    """The model as an objective sees it: each view goes through the backbone once per micro-batch (model.trunk)."""

    def output(self, view: str, batch: Batch) -> Any: ...

    def logits(self, view: str, batch: Batch) -> torch.Tensor: ...


class Objective(Protocol):
    """One term of the loss. If it has parameters of its own it is an nn.Module and the composite registers it."""

    name: str
    weight: Callable[[int], float]
    """share of this term in the sum, as a function of the step"""
    views: tuple[str, ...]

    def count(self, batch: Batch) -> float:
        """Items that `loss` will sum over; known without a forward pass, so that all ranks can add up first."""

    def loss(self, trunk: Views, batch: Batch) -> Loss: ...


class FreezePolicy(Protocol):
    changes: bool
    """does `trainable` depend on the step?"""

    def trainable(self, layers: Any, step: int) -> frozenset[str]:
        """Names of the parameters that train at `step`; pure. `layers` is the model's LayerMap."""


class Task(Protocol):
    """What is learnt and how it is measured: knows data and scores, not the loop."""

    metric: str
    mode: str
    """"max" or "min": the direction in which `metric` is better"""

    def decode(self, outputs: torch.Tensor) -> list[dict[str, Any]]: ...

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]: ...


class Watcher(Protocol):
    """Sees what happened and changes nothing: the progress display, later trackers and profilers."""

    def on_plan(self, plan: Mapping[str, Any]) -> None: ...

    def on_step(self, record: Mapping[str, Any]) -> None: ...

    def on_evaluation(self, record: Mapping[str, Any]) -> None: ...

    def on_end(self) -> None: ...


Watchers = Sequence[Watcher]

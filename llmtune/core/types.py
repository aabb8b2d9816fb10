"""What all floors agree on: losses as sums and counts, the state of training, batches."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


EVERY_FEED = "every"
"""`feed` of a term that is no loss of rows, such as a distance of weights: it acts whosever rows a step reads"""


class Loss(NamedTuple):
    """A loss as a sum over items and their number, never a mean: only the loop divides, once, by the global count.

    A NamedTuple because accelerate's conversion of outputs to fp32 passes over dataclasses.
    """

    total: torch.Tensor
    """scalar, differentiable"""
    count: torch.Tensor  # type: ignore[assignment]
    """scalar, what `total` is a sum over (rows, tokens, or their weights)"""
    logs: dict[str, torch.Tensor] = {}  # noqa: RUF012 - never written to
    """further sums over the same items, shown beside the loss"""


@dataclass
class TrainState:
    """Where training stands: plain numbers that a checkpoint keeps as JSON."""

    step: int = 0
    """optimizer steps made"""
    rows_seen: int = 0
    tokens_seen: int = 0
    """real tokens, padding apart"""
    padded_tokens_seen: int = 0
    """tokens with padding"""
    best_score: float | None = None
    best_step: int | None = None
    evals_without_gain: int = 0
    last_score: float | None = None
    evaluated_step: int | None = None
    """step of the newest evaluation, so that the last step is evaluated once and not twice"""
    watched_step: int | None = None
    """step at which forgetting was measured last"""
    window: dict[str, float] = field(default_factory=dict)
    """sums since the last line of metrics.jsonl"""
    seconds: float = 0.0
    """spent in training so far, over all starts of the run"""
    eval_seconds: float = 0.0
    """spent in evaluations so far, likewise"""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def without_clocks(self) -> dict[str, Any]:
        """What two equal runs agree on."""
        return {name: value for name, value in self.to_json().items() if name not in ("seconds", "eval_seconds")}


@dataclass
class Batch:
    """Rows that go through the model together.

    `views` holds one or several sets of model inputs (`clean`, `masked`, ...); each is a dict of
    tensors shaped (sequences, tokens). `targets` is what the task made of the labels.
    """

    row_ids: list[int]
    views: dict[str, dict[str, torch.Tensor]]
    targets: dict[str, torch.Tensor]
    weight: float = 1.0
    """0 for the stand-in that keeps an idle rank in step with the others"""
    real_tokens: int = 0
    padded_tokens: int = 0
    """tokens with padding, of the clean view"""
    step: int = 0
    """the step of its feed that the batch is a part of"""
    feed: str = "task"
    """whose rows these are: the task's, or those of an objective that brings its own"""
    kept: Any = None
    """where the prefix cache keeps these rows (model.prefix_cache.Kept); whoever changes the clean view sets None"""
    row_seeds: list[int] = field(default_factory=list)
    """a function of (seed, epoch, row): what is drawn for a row derives from it, however batches are cut; where a row
    is several sequences, one for each of them"""
    num_sequences: list[int] = field(default_factory=list)
    """of each row: windows of a long text, or choices, that stand below each other in the views; 1 for a plain row"""
    facts: dict[str, list[Any]] = field(default_factory=dict)
    """what else the encoder said of each row, by name: a flat list of numbers"""

    def is_read_by(self, feed: str) -> bool:
        """Are these rows of what an objective with this `feed` reads?"""
        return feed in (self.feed, EVERY_FEED)

    def to(self, device: torch.device) -> Batch:
        def move(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}

        return dataclasses.replace(
            self, views={name: move(view) for name, view in self.views.items()}, targets=move(self.targets)
        )

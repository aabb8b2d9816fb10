"""One optimizer step: add up sums and counts over micro-batches, objectives and processes, divide once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from llmtune.core.errors import Diverged
from llmtune.core.protocols import Balance, Follower
from llmtune.core.seeds import fold
from llmtune.core.types import EVERY_FEED, Batch
from llmtune.hardware.machine import Machine
from llmtune.model.composite import Composite
from llmtune.training.apart import Apart
from llmtune.training.comparing import Compared, compare_over_splits
from llmtune.training.gradients import add_noise, clip_by_value

MOST_SKIPPED = 20
"""fp16: steps that the loss scaler may skip in a row; its search for a scale takes fewer"""


@dataclass(frozen=True)
class StepResult:
    """What one step did, over all processes."""

    sums: dict[str, float]
    """by objective: its loss as a sum, and as `<name>/count` what it is a sum over; `loss` is the weighted mean"""
    grad_norm: float
    """before clipping"""
    rows: int
    real_tokens: int
    padded_tokens: int
    weights: dict[str, float] = field(default_factory=dict)
    """by objective: what its mean loss was multiplied by"""
    norms: dict[str, float] = field(default_factory=dict)
    """by objective: of its weighted gradient on what the balance watches, if it watches anything"""


@dataclass
class Stepper:
    """Makes optimizer steps; knows no objective by name and no schedule."""

    module: nn.Module
    """the composite, as accelerate wrapped it"""
    composite: Composite
    optimizer: Any
    machine: Machine
    seed: int
    clip_norm: float | None
    clip_value: float | None
    grad_noise: float
    balance: Balance
    followers: Sequence[Follower] = ()
    """parts that look at each step while its gradients are there"""
    skipped_in_a_row: int = 0

    @property
    def objectives(self) -> Mapping[str, Any]:
        return self.composite.objectives

    @property
    def combines(self) -> bool:
        """Does the balance make the gradient out of those of the objectives, or is it that of their weighted sum?"""
        return hasattr(self.balance, "combine")

    def run(self, step: int, batches: list[Batch], lr: float, should_stop: Callable[[], bool]) -> StepResult | None:
        """Step number `step` on this process's `batches`; None if a stop was asked for in the middle of it.

        Raises:
            Diverged: loss or gradient is NaN or infinite; the weights are those before the step.
        """
        weights = self.balance.weights({name: part.weight(step) for name, part in self.objectives.items()})
        active = [name for name, weight in weights.items() if weight != 0]
        read = {self.objectives[name].feed for name in active}
        read = read - {EVERY_FEED} or read
        batches = [batch for batch in batches if any(map(batch.is_read_by, read))]
        counts, rows, real, padded = self._totals(active, batches)
        compared = compare_over_splits(self.composite, self.machine, batches, active, self._draws(step, batches))
        counts.update({name: item.count for name, item in compared.items()})
        scales = {name: weights[name] * self.machine.world / max(counts[name], 1e-12) for name in active}

        apart = Apart(self.composite, self.balance.watched, self.machine) if self.balance.watched else None
        totals = self._accumulate(step, batches, scales, compared, apart, should_stop)
        if totals is None:
            self.optimizer.zero_grad(set_to_none=True)
            return None
        norms = {}
        if apart is not None and self.combines:
            apart.put(self.balance.combine(step, apart.gathered(active)))  # type: ignore[attr-defined]
        elif apart is not None:
            norms = apart.norms(active)
        limit = math.inf if self.clip_norm is None else self.clip_norm
        grad_norm = float(self.machine.accelerator.clip_grad_norm_(self.module.parameters(), limit))
        sums = dict(zip(active, self.machine.add_up([float(totals[name]) for name in active])))
        sums.update({name: item.total for name, item in compared.items()})
        self._refuse_nonfinite(step, sums, grad_norm, batches)
        if self.clip_value is not None:
            clip_by_value(self.composite, self.clip_value)
        if self.grad_noise:
            add_noise(self.composite, self.grad_noise, seed=self.seed, step=step)

        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        self.optimizer.step()
        loss = sum(weights[name] * sums[name] / max(counts[name], 1e-12) for name in active)
        sums.update({f"{name}/count": counts[name] for name in active})
        result = StepResult({"loss": loss, **sums}, grad_norm, rows, real, padded, weights, norms)
        for part in self.followers:
            part.follow(step, result)
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def _totals(self, active: list[str], batches: list[Batch]) -> tuple[dict[str, float], int, int, int]:
        """Global counts of each objective, the task's rows, real and padded tokens: known before any forward pass."""
        mine = [sum(self._count(name, batch) for batch in batches) for name in active]
        mine.append(sum(len(batch.row_ids) for batch in batches if batch.weight and batch.feed == "task"))
        mine.append(sum(batch.real_tokens for batch in batches))
        mine.append(sum(batch.padded_tokens for batch in batches))
        *counts, rows, real, padded = self.machine.add_up([float(value) for value in mine])
        return dict(zip(active, counts)), int(rows), int(real), int(padded)

    def _count(self, name: str, batch: Batch) -> float:
        part = self.objectives[name]
        return part.count(batch) * batch.weight if batch.is_read_by(part.feed) else 0.0

    def _draws(self, step: int, batches: list[Batch]) -> list[int]:
        """For each micro-batch what its dropout derives from, so that a resumed step draws the same."""
        return [fold(self.seed, "dropout", step, micro, self.machine.rank) for micro in range(len(batches))]

    def _accumulate(
        self, step: int, batches: list[Batch], scales: Mapping[str, float], compared: Mapping[str, Compared],
        apart: Apart | None, should_stop: Callable[[], bool],
    ) -> dict[str, torch.Tensor] | None:  # fmt: skip
        """Forward and backward of every micro-batch; this process's detached loss sums by active objective."""
        accelerator, device, active = self.machine.accelerator, self.machine.device, list(scales)
        totals = {name: torch.zeros((), device=device) for name in active}
        for micro, draw in enumerate(self._draws(step, batches)):
            batch = batches[micro]
            if should_stop():
                return None
            torch.manual_seed(draw)
            self.composite.trunk.draw = draw
            last = micro == len(batches) - 1
            pulls = {name: item.pulls[micro] for name, item in compared.items() if item.pulls[micro] is not None}
            syncs = last and not self.combines  # what is taken apart is exchanged apart
            with contextlib.nullcontext() if syncs else accelerator.no_sync(self.module):
                losses = self.module(batch.to(device), active, pulls)
                scaled = {name: loss.total * (scales[name] * batch.weight) for name, loss in losses.items()}
                if apart is not None:
                    apart.add(scaled, keep_graph=not self.combines)
                if losses and not self.combines:
                    accelerator.backward(sum(scaled.values()))
            for name, loss in losses.items():
                totals[name] += loss.total.detach() * batch.weight
        self.composite.trunk.draw = None
        return totals

    def _refuse_nonfinite(self, step: int, sums: Mapping[str, float], grad_norm: float, batches: list[Batch]) -> None:
        scaler = self.machine.accelerator.scaler
        bad = [f"the loss of {name} is {value}" for name, value in sums.items() if not math.isfinite(value)]
        if not bad and not math.isfinite(grad_norm):
            if scaler is not None and self.skipped_in_a_row < MOST_SKIPPED:
                self.skipped_in_a_row += 1  # the scaler will skip this step and try a smaller scale
                return
            bad = [f"the norm of the gradient is {grad_norm}"]
        self.skipped_in_a_row = 0
        if bad:
            self.optimizer.zero_grad(set_to_none=True)
            rows = [row for batch in batches for row in batch.row_ids]
            raise Diverged(
                f"step {step + 1}: {'; '.join(bad)}. The step was not made; checkpoints and best model are untouched. "
                f"Rows of the step: {rows[:32]}{' ...' if len(rows) > 32 else ''}. "
                "Try a smaller optimizer.lr, a longer optimizer.warmup, or hardware.precision=fp32"
            )

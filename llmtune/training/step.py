"""One optimizer step: add up sums and counts over micro-batches, objectives and processes, divide once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from llmtune.core.errors import Diverged
from llmtune.core.protocols import Objective
from llmtune.core.seeds import fold
from llmtune.core.types import Batch
from llmtune.hardware.machine import Machine

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


@dataclass
class Stepper:
    """Makes optimizer steps; knows no objective by name and no schedule."""

    module: nn.Module
    """the composite, as accelerate wrapped it"""
    optimizer: Any
    machine: Machine
    objectives: Mapping[str, Objective]
    seed: int
    clip_norm: float | None
    skipped_in_a_row: int = 0

    def run(self, step: int, batches: list[Batch], lr: float, should_stop: Callable[[], bool]) -> StepResult | None:
        """Step number `step` on this process's `batches`; None if a stop was asked for in the middle of it.

        Raises:
            Diverged: loss or gradient is NaN or infinite; the weights are those before the step.
        """
        weights = {name: part.weight(step) for name, part in self.objectives.items()}
        active = [name for name, weight in weights.items() if weight != 0]
        counts, rows, real, padded = self._totals(active, batches)
        scales = {name: weights[name] * self.machine.world / max(counts[name], 1e-12) for name in active}

        totals = self._accumulate(step, batches, active, scales, should_stop)
        if totals is None:
            self.optimizer.zero_grad(set_to_none=True)
            return None
        limit = math.inf if self.clip_norm is None else self.clip_norm
        grad_norm = float(self.machine.accelerator.clip_grad_norm_(self.module.parameters(), limit))
        sums = dict(zip(active, self.machine.add_up([float(totals[name]) for name in active])))
        self._refuse_nonfinite(step, sums, grad_norm, batches)

        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(weights[name] * sums[name] / max(counts[name], 1e-12) for name in active)
        sums.update({f"{name}/count": counts[name] for name in active})
        return StepResult({"loss": loss, **sums}, grad_norm, rows, real, padded)

    def _totals(self, active: list[str], batches: list[Batch]) -> tuple[dict[str, float], int, int, int]:
        """Global counts of each objective, rows, real and padded tokens: known before any forward pass."""
        mine = [sum(self.objectives[name].count(batch) * batch.weight for batch in batches) for name in active]
        mine.append(sum(len(batch.row_ids) for batch in batches if batch.weight))
        mine.append(sum(batch.real_tokens for batch in batches))
        mine.append(sum(batch.padded_tokens for batch in batches))
        *counts, rows, real, padded = self.machine.add_up([float(value) for value in mine])
        return dict(zip(active, counts)), int(rows), int(real), int(padded)

    def _accumulate(
        self, step: int, batches: list[Batch], active: list[str], scales: Mapping[str, float],
        should_stop: Callable[[], bool],
    ) -> dict[str, torch.Tensor] | None:  # fmt: skip
        """Forward and backward of every micro-batch; this process's detached loss sums by objective."""
        accelerator = self.machine.accelerator
        totals = {name: torch.zeros((), device=self.machine.device) for name in active}
        for micro, batch in enumerate(batches):
            if should_stop():
                return None
            # dropout is a function of where it is drawn, so a resumed step draws the same
            torch.manual_seed(fold(self.seed, "dropout", step, micro, self.machine.rank))
            last = micro == len(batches) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.module):
                losses = self.module(batch.to(self.machine.device), active)
                scaled = sum(losses[name].total * (scales[name] * batch.weight) for name in active)
                accelerator.backward(scaled)
            for name in active:
                totals[name] += losses[name].total.detach() * batch.weight
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

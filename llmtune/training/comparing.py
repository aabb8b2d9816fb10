"""Losses that compare rows with each other, made independent of how a step is split (Gao et al., arXiv 2101.06983).

Legend: R items of all micro-batches and processes, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llmtune.core.types import Batch
from llmtune.hardware.machine import Machine
from llmtune.model.composite import Composite


@dataclass(frozen=True)
class Compared:
    """A pooled objective's loss over a whole step."""

    total: float
    count: float
    pulls: list[torch.Tensor | None]
    """by micro-batch of this process: the gradient of `total` on its items; None where it has no such rows"""


def compare_over_splits(
    composite: Composite, machine: Machine, batches: list[Batch], active: list[str], draws: list[int]
) -> dict[str, Compared]:
    """Loss and gradient of the pooled objectives among `active` over all items of the step.

    Empty where a step is one forward pass of one process: the objective's own `loss` serves then.
    """
    names = []
    for name in active:
        part = composite.objectives[name]
        passes = sum(batch.feed == part.feed for batch in batches)
        # a step may read other rows alone: sampling takes one set after the other
        if getattr(part, "pooled", False) and (passes > 1 or (passes and machine.world > 1)):
            names.append(name)
    if not names:
        return {}
    items = []
    with machine.accelerator.autocast():
        for batch, draw in zip(batches, draws):
            composite.trunk.draw = draw
            found = composite.represent(batch.to(machine.device), names) if batch.weight else {}
            items.append({name: item_RD.float().cpu() for name, item_RD in found.items()})
    composite.trunk.draw = None
    return {name: _compare(composite.objectives[name], machine, batches, [item.get(name) for item in items])
            for name in names}  # fmt: skip


def _compare(
    part: torch.nn.Module, machine: Machine, batches: list[Batch], items: list[torch.Tensor | None]
) -> Compared:
    mine = [(item_RD, part.keys(batch)) for batch, item_RD in zip(batches, items) if item_RD is not None]  # type: ignore[operator]
    ranks = machine.gather([mine])
    everything = [pair for rank in ranks for pair in rank]
    items_RD = torch.cat([item_RD for item_RD, _ in everything]).to(machine.device).requires_grad_()
    keys = {word: torch.cat([keys[word] for _, keys in everything]) for word in everything[0][1]}
    loss = part.compare(items_RD, {word: value.to(machine.device) for word, value in keys.items()})  # type: ignore[operator]
    (pulls_RD,) = torch.autograd.grad(loss.total, items_RD)
    start = sum(len(item_RD) for rank in ranks[: machine.rank] for item_RD, _ in rank)
    pulls: list[torch.Tensor | None] = []
    for batch, item_RD in zip(batches, items):
        if item_RD is not None:
            pulls.append(pulls_RD[start : start + len(item_RD)])
            start += len(item_RD)
        else:  # a stand-in without weight still goes through, so that ranks stay in step
            pulls.append(torch.zeros((), device=machine.device) if batch.feed == part.feed else None)
    return Compared(float(loss.total.detach()), float(loss.count), pulls)

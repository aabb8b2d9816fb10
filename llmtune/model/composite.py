"""Composite: the task model and every objective's own modules as the one module that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from llmtune.core.types import Batch, Loss
from llmtune.model.trunk import Trunk


class Composite(nn.Module):
    """What optimizer, DDP and checkpoint see; `forward(batch)` gives the Loss of each active objective of its feed."""

    def __init__(self, model: nn.Module, objectives: Mapping[str, Any]):
        super().__init__()
        self.model = model
        self.own = nn.ModuleDict({name: part for name, part in objectives.items() if isinstance(part, nn.Module)})
        self.objectives = dict(objectives)
        wants = {word for part in objectives.values() for word in getattr(part, "wants", ())}
        self.trunk = Trunk(model, sorted(wants))

    def forward(
        self, batch: Batch, active: Sequence[str] | None = None, pulls: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, Loss]:
        """name -> Loss of the objectives in `active` (None: all) that are of this batch's rows.

        `pulls`: for a pooled objective the gradient of its loss on what this batch is represented by (R, D), known
        from a pass before; its total is then the product, which has the same gradient.
        """
        self.trunk.reset()
        pulls = pulls or {}
        losses = {}
        for name in self.objectives if active is None else active:
            part = self.objectives[name]
            if not batch.is_read_by(part.feed):
                continue
            if name in pulls:
                items_RD = part.represent(self.trunk, batch)
                losses[name] = Loss((items_RD * pulls[name]).sum(), torch.zeros((), device=items_RD.device))
            else:
                losses[name] = part.loss(self.trunk, batch)
        self.trunk.reset()  # the graph lives on in the losses alone
        return self._reaching(losses)

    def _reaching(self, losses: dict[str, Loss]) -> dict[str, Loss]:
        """The same, with a gradient of 0 where no loss reaches anything that trains.

        An objective's own rows may go through frozen parts alone (a tied language-model head under a linear probe).
        The backward pass is made all the same, since processes meet in the last one of a step.
        """
        if not losses or not torch.is_grad_enabled() or any(loss.total.requires_grad for loss in losses.values()):
            return losses
        name, loss = next(iter(losses.items()))
        nothing = next(parameter for parameter in self.parameters() if parameter.requires_grad).flatten()[:0].sum()
        total = loss.total + nothing.to(loss.total.device)
        return {**losses, name: loss._replace(total=total)}

    @torch.no_grad()
    def represent(self, batch: Batch, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """What each of these pooled objectives represents the batch by: (R, D), without gradient."""
        self.trunk.reset()
        items = {
            name: self.objectives[name].represent(self.trunk, batch)
            for name in names
            if self.objectives[name].feed == batch.feed
        }
        self.trunk.reset()
        return items

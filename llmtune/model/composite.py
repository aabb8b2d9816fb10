"""Composite: the task model and every objective's own modules as the one module that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from llmtune.core.protocols import Objective
from llmtune.core.types import Batch, Loss
from llmtune.model.trunk import Trunk


class Composite(nn.Module):
    """What optimizer, DDP and checkpoint see; `forward(batch)` gives each active objective's Loss."""

    def __init__(self, model: nn.Module, objectives: Mapping[str, Objective]):
        super().__init__()
        self.model = model
        self.own = nn.ModuleDict({name: part for name, part in objectives.items() if isinstance(part, nn.Module)})
        self.objectives = dict(objectives)
        self.trunk = Trunk(model)

    def forward(self, batch: Batch, active: Sequence[str] | None = None) -> dict[str, Loss]:
        """name -> Loss of the objectives in `active` (None: all)."""
        self.trunk.reset()
        names = self.objectives if active is None else active
        losses = {name: self.objectives[name].loss(self.trunk, batch) for name in names}
        self.trunk.reset()  # the graph lives on in the losses alone
        return losses

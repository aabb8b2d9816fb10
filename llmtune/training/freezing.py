"""Applies a freeze policy to the network: what trains, and which modules draw dropout."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.protocols import FreezePolicy
from llmtune.model.layers import LayerMap


@dataclass
class Freezing:
    """Frozen parameters keep their place in the optimizer and lose their gradient, so state dicts always fit."""

    network: nn.Module
    layers: LayerMap
    policy: FreezePolicy
    trainable: frozenset[str] | None = field(default=None)

    def apply(self, step: int) -> bool:
        """Set `requires_grad` and modes for `step`; True if what trains has changed.

        Raises:
            ConfigError: nothing at all would train.
        """
        if self.trainable is not None and not self.policy.changes:
            return False
        names = self.policy.trainable(self.layers, step)
        changed = names != self.trainable
        if changed:
            if not names:
                raise ConfigError(Fault("freeze_policy", "leaves nothing to train"))
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad_(name in names)
                if name not in names:
                    parameter.grad = None
            self.trainable = names
            self.set_modes()
        return changed

    def set_modes(self) -> None:
        """Training mode, but a module all of whose places are frozen stays in eval mode: no dropout in it."""
        places = {self.layers.places[name] for name in self.trainable or ()}
        self.network.train()
        for path, module in self.network.named_modules():
            inside = {place for name, place in self.layers.places.items() if name.startswith(f"{path}.")}
            if path and inside and not places & inside:
                module.eval()

    def counts(self) -> list[tuple[str, int, int]]:
        """(place, parameters, trainable ones) from the bottom to the top, for places that have any."""
        rows = []
        sizes = {name: parameter.numel() for name, parameter in self.network.named_parameters()}
        for place in self.layers.order:
            names = self.layers.at(place)
            if names:
                trained = names & (self.trainable or frozenset())
                rows.append((place, sum(sizes[name] for name in names), sum(sizes[name] for name in trained)))
        return rows

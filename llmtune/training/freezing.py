"""Applies a freeze policy to the network: what trains, which modules draw dropout, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.protocols import FreezePolicy
from llmtune.freeze_policy.phases import ever_trained
from llmtune.model.layers import HEAD, LayerMap
from llmtune.model.modes import set_modes
from llmtune.training.untouched import Untouched


@dataclass
class Freezing:
    """Frozen parameters keep their place in the optimizer and lose their gradient, so state dicts always fit."""

    network: nn.Module
    layers: LayerMap
    policy: FreezePolicy
    trainable: frozenset[str] | None = field(default=None)
    optimizer: Any = None
    """told of what stops to train, if it has `rest`"""
    unreached: frozenset[str] = frozenset()
    """what may train, and no objective has a gradient for (a pooler that nothing reads); not counted as trained"""
    untouched: Untouched = field(init=False)

    def __post_init__(self) -> None:
        self.untouched = Untouched(self.network)

    def apply(self, step: int) -> bool:
        """Set `requires_grad` and modes for `step`; True if what trains has changed.

        Raises:
            ConfigError: nothing at all would train.
        """
        if self.trainable is not None and not self.policy.changes:
            return False
        names = self.names_at(step)
        changed = names != self.trainable
        if changed:
            if not names:
                raise ConfigError(Fault("freeze_policy", "leaves nothing to train"))
            stopped = (self.trainable or frozenset()) - names
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad_(name in names)
                if name not in names:
                    parameter.grad = None
                if name in stopped and hasattr(self.optimizer, "rest"):
                    self.optimizer.rest(parameter)
            self.trainable = names
            self.untouched.forget(self._moving())
            self.set_modes()
        return changed

    def thaw(self, num_steps: int) -> None:
        """Let all train that ever will in a run of `num_steps`, until `apply` comes: a trial must have room for it."""
        names = ever_trained(self.policy, self.layers, num_steps) | self.layers.own
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in names and parameter.is_floating_point())
        set_modes(self.network, self.layers, names)
        self.trainable = None

    def lift(self) -> None:
        """Let everything train until `apply` comes: what is frozen when DDP wraps is never synchronised later."""
        for parameter in self.network.parameters():
            parameter.requires_grad_(parameter.is_floating_point())  # few-bit weights can't
        self.trainable = None

    def names_at(self, step: int) -> frozenset[str]:
        """What trains at `step`: the policy's choice, and whatever objectives brought of their own."""
        return (self.policy.trainable(self.layers, step) | self.layers.own) - self.layers.fixed

    def lr_factor_at(self, step: int) -> float:
        """What the policy multiplies the learning rate by."""
        stages = getattr(self.policy, "lr_stages", ((0, 1.0),))
        return [factor for start, factor in stages if start <= step][-1]

    def set_modes(self) -> None:
        set_modes(self.network, self.layers, self.trainable or ())

    def remember(self) -> None:
        """Before the first step: keep the hashes of all that does not train, for the proof at the end."""
        self.untouched.remember(self._moving())

    def moved_base(self) -> frozenset[str]:
        """Parameters of the model itself, but for its head, that have trained beneath an adapter in this run."""
        layers, still = self.layers, self.untouched.start
        if still is None or not layers.adapters:
            return frozenset()
        beside = layers.adapters | layers.fixed | layers.own | layers.at(HEAD)
        return frozenset(layers.places.keys() - beside - still.keys())

    def counts(self) -> list[tuple[str, int, int]]:
        """(place, parameters, those that train) from the bottom to the top, for places that have any."""
        rows = []
        sizes = {name: parameter.numel() for name, parameter in self.network.named_parameters()}
        for place in self.layers.order:
            names = self.layers.at(place)
            if names:
                trained = names & self._trained()
                rows.append((place, sum(sizes[name] for name in names), sum(sizes[name] for name in trained)))
        return rows

    def table(self, groups: Iterable[Mapping[str, Any]], peak_lr: float) -> list[dict[str, Any]]:
        """`place`, `parameters`, `trainable` and `lr` of each place; lr: its peaks, lowest first, as of the optimizer's
        `groups` (several with LoRA+); none where all is frozen."""
        factors = {name: group["factor"] for group in groups for name in group["names"]}
        first = self.lr_factor_at(0)
        rows: list[dict[str, Any]] = []
        for place, parameters, trainable in self.counts():
            trained = self.layers.at(place) & self._trained()
            rates = sorted({peak_lr * first * factors[name] for name in trained if name in factors})
            rows.append({"place": place, "parameters": parameters, "trainable": trainable, "lr": rates})
        return rows

    def timeline(self) -> list[dict[str, Any]]:
        """`step`, the `places` that train from then on and `lr_factor`, of a policy that is a function of the step."""
        if not self.policy.changes:
            return []
        lines: list[dict[str, Any]] = []
        for step in getattr(self.policy, "steps_of_change", ()):
            places = self._places(self.names_at(step))
            ordered = [place for place in self.layers.order if place in places]
            lines.append({"step": step, "places": ordered, "lr_factor": self.lr_factor_at(step)})
        return lines

    def _trained(self) -> frozenset[str]:
        return (self.trainable or frozenset()) - self.unreached

    def _moving(self) -> frozenset[str]:
        """All that trains, and what an adapter counts beside its weights (AdaLoRA's ranks)."""
        return (self.trainable or frozenset()) | (self.layers.fixed & self.layers.adapters)

    def _places(self, names: Iterable[str]) -> set[str]:
        return {self.layers.places[name] for name in names}

"""Some of the backbone's weights are for a step what they were at the start (mixout; Lee et al., arXiv 1909.11299)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts, Prospect
from llmtune.core.protocols import Views
from llmtune.core.ranges import between, weight
from llmtune.core.schedules import weight_schedule
from llmtune.core.seeds import fold
from llmtune.core.types import Batch
from llmtune.objective.task_term import TaskTerm

if TYPE_CHECKING:
    import torch

    from llmtune.objective.starting_weights import Starts


@dataclass(frozen=True, kw_only=True)
class Mixout:
    name: str
    weight: float | str
    probability: float

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        between("probability", self.probability, 0.01, 0.99)

    def build(self, parts: Parts) -> TaskTerm:
        from llmtune.objective.starting_weights import Starts

        if "supervised" in parts.config.objective:
            parts.console.say("mixout beside supervised: rows go through with and without it; alone it is the paper's")
        starts = Starts(parts.network, mixed_names(parts))
        total = functools.partial(total_loss, parts.task, parts.network, starts, self.probability, parts.config.seed)
        return TaskTerm(self.name, weight_schedule(self.weight, parts.num_steps), parts.task, total)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError if no layer of the backbone trains, or if weights would be read again outside the run."""
        from llmtune.objective.starting_weights import refuse_nothing_to_hold

        refuse_nothing_to_hold(prospect, self.name, mixed_names(prospect))
        config = prospect.config
        rereads = {"train.gradient_checkpointing": config.train.gradient_checkpointing,
                   "hardware.compile": config.hardware.compile}  # fmt: skip
        faults = [
            Fault(key, "true beside objective mixout, which changes weights for one run only", "", f"type {key}=false")
            for key, given in rereads.items()
            if given
        ]
        if faults:
            raise ConfigError(*faults)


def mixed_names(where: Any) -> frozenset[str]:
    """Matrices in the backbone's layers that train at some step. `where`: Parts or Prospect."""
    from llmtune.objective.starting_weights import held_and_new

    layers = where.layers
    return frozenset(
        name for name in held_and_new(where)[0]
        if layers.kinds[name] == "weight" and layers.places[name].startswith("layer ")
    )  # fmt: skip


def total_loss(
    task: Any, network: Any, starts: Starts, probability: float, seed: int, trunk: Views, batch: Batch
) -> torch.Tensor:
    """The task's loss of a run with mixed weights; what is mixed is drawn once for a step, alike in all its parts."""
    with mixed(network, starts, probability, fold(seed, "mixout", batch.step)):
        return task.loss(trunk.again("clean", batch, "mixout"), batch.targets).total


@contextlib.contextmanager
def mixed(network: Any, starts: Starts, probability: float, seed: int) -> Iterator[None]:
    """Within it each weight is, with this probability, its start u, and on average itself (equation 3):
    (M u + (1 - M) w - p u) / (1 - p), M being 1 with probability p."""
    import torch

    trained = {name: weight for name, weight in starts.parameters.items() if weight.requires_grad}
    try:
        for name, weight in trained.items():
            generator = torch.Generator(weight.device).manual_seed(fold(seed, name))
            back = torch.rand(weight.shape, generator=generator, device=weight.device) < probability
            start = starts.of(name)
            values = (torch.where(back, start, weight) - probability * start) / (1 - probability)
            _owner(network, name)[name.rpartition(".")[2]] = values
        yield
    finally:
        for name, weight in trained.items():
            _owner(network, name)[name.rpartition(".")[2]] = weight


def _owner(network: Any, name: str) -> dict[str, Any]:
    """The parameters of the module that holds `name`; an entry that is replaced keeps its place among them."""
    return network.get_submodule(name.rpartition(".")[0])._parameters

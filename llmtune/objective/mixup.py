"""Rows mixed in pairs, their words or hidden states as well as their labels (mixup; arXiv 1710.09412, 1806.05236)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts, Prospect
from llmtune.core.protocols import Views
from llmtune.core.ranges import at_least, one_of, positive, weight
from llmtune.core.schedules import weight_schedule
from llmtune.core.seeds import generator
from llmtune.core.types import Batch, Loss

if TYPE_CHECKING:
    from llmtune.objective.pairs import Pairs

PARTNER = "mixup partner"
SHARE = "mixup share"
LAYER = "mixup layer"


@dataclass(frozen=True, kw_only=True)
class Mixup:
    name: str
    weight: float | str
    alpha: float
    layer: int | str
    perturbs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        positive("alpha", self.alpha)
        if isinstance(self.layer, str):
            one_of("layer", self.layer, ("embeddings", "random", "a number from 1"))
        else:
            at_least("layer", self.layer, 1)

    def build(self, parts: Parts) -> MixupLoss:
        from llmtune.objective.pairs import Pairs

        pairs = Pairs(parts.splits["train"], parts.token_table.pad_token_id, parts.task.collate_targets)
        schedule = weight_schedule(self.weight, parts.num_steps)
        return MixupLoss(schedule, self, parts.task, parts.network, pairs, parts.layers.num_layers)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError for models and settings in which there is nothing to mix at that place."""
        from llmtune.model.prefix import lower_stack

        config, num_layers = prospect.config, prospect.layers.num_layers
        faults = []
        if "cuts" in prospect.splits["train"].column_names:
            faults.append(Fault("objective.mixup", f"mixes two texts, the rows of task={config.task.name} are several "
                                "sequences each", "tasks of one sequence a row", "leave mixup out"))  # fmt: skip
        if getattr(prospect.model_config, "is_encoder_decoder", False):
            faults.append(Fault("objective.mixup", f"{config.model.name} is an encoder-decoder: its decoder would "
                                "still read one row alone", "an encoder or a decoder", "leave mixup out"))  # fmt: skip
        if isinstance(self.layer, int) and self.layer > num_layers:
            faults.append(Fault("objective.mixup.layer", f"{self.layer}, but the model has {num_layers} layers",
                                f"1 to {num_layers}, embeddings or random"))  # fmt: skip
        if self.layer != "embeddings":
            seen = len(lower_stack(prospect.network.base_model))
            where, fix = f"objective.mixup.layer: {self.layer}", "type objective.mixup.layer=embeddings"
            if config.train.gradient_checkpointing:
                faults.append(Fault(where, "layers are computed again, unmixed, with train.gradient_checkpointing=true",
                                    "", fix))  # fmt: skip
            if getattr(config.adapter, "virtual_tokens", 0):
                faults.append(Fault(where, f"the layers have virtual tokens (adapter={config.adapter.name})", "", fix))
            if seen != num_layers and not getattr(prospect.model_config, "is_encoder_decoder", False):
                family = prospect.model_config.model_type
                faults.append(Fault(where, f"what leaves a layer of {family} models is not one module's", "", fix))
        if faults:
            raise ConfigError(*faults)


class MixupLoss:
    """The task's loss of mixed rows, each label counting by its share."""

    name = "mixup"
    feed = "task"

    def __init__(
        self, weight: Callable[[int], float], settings: Mixup, task: Any, network: Any, pairs: Pairs, num_layers: int
    ):
        self.weight = weight
        self.settings = settings
        self.task = task
        self.network = network
        self.pairs = pairs
        self.num_layers = num_layers

    def prepare(self, batch: Batch) -> None:
        """For each row: a partner no longer than it, the row's own share ~ Beta(alpha, alpha), the layer (0: words)."""
        import torch

        draws = [generator(seed, "mixup") for seed in batch.row_seeds]
        partners = [self.pairs.draw(row, rng) for row, rng in zip(batch.row_ids, draws)]
        shares = [float(rng.beta(self.settings.alpha, self.settings.alpha)) for rng in draws]
        layers = [self._layer(rng) for rng in draws]
        batch.views[PARTNER], targets = self.pairs.of(partners)
        batch.targets |= {f"{PARTNER} {key}": value for key, value in targets.items()}
        batch.targets |= {SHARE: torch.tensor(shares), LAYER: torch.tensor(layers)}

    def _layer(self, rng: Any) -> int:
        layer = self.settings.layer
        if layer == "random":
            return int(rng.integers(self.num_layers + 1))
        return layer if isinstance(layer, int) else 0

    def count(self, batch: Batch) -> float:
        share_B, theirs = batch.targets[SHARE], self._theirs(batch)
        return self.task.count(batch.targets, share_B) + self.task.count(theirs, 1 - share_B)

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        from llmtune.objective.pairs import mixed_logits

        share_B = batch.targets[SHARE]
        logits_BC = mixed_logits(trunk, self.network, batch, PARTNER, share_B, batch.targets[LAYER])
        ours = self.task.loss(logits_BC, batch.targets, share_B)
        theirs = self.task.loss(logits_BC, self._theirs(batch), 1 - share_B)
        return Loss(ours.total + theirs.total, ours.count + theirs.count)

    def _theirs(self, batch: Batch) -> dict[str, Any]:
        start = f"{PARTNER} "
        return {key.removeprefix(start): value for key, value in batch.targets.items() if key.startswith(start)}

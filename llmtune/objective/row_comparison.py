"""What objectives that compare rows share: a unit vector for each row, and a second view of it.

Legend: B rows of a batch, T tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from llmtune.core.errors import ConfigError, Fault, ModelError
from llmtune.core.parts import Prospect
from llmtune.core.protocols import Views
from llmtune.core.seeds import fold
from llmtune.core.types import Batch
from llmtune.freeze_policy.phases import will_train
from llmtune.model.layers import HEAD
from llmtune.model.pooling import pooled, pooling_of_head

SECOND = "second"
"""the clean view once more: another name, so another dropout"""


def refuse_representation(objective: str, projection: int | None, prospect: Prospect) -> None:
    """ConfigError where nothing that the vectors come from ever trains, ModelError where rows have two sides."""
    if prospect.network.config.is_encoder_decoder:
        family = prospect.network.config.model_type
        raise ModelError(
            Fault(f"objective.{objective}", f"reads a text's states out of one stack, {family} has two",
                  "an encoder or a decoder", "type model=minilm, or leave it out")
        )  # fmt: skip
    trained = will_train(prospect)
    if projection is None and all(prospect.layers.places[name] == HEAD for name in trained):
        raise ConfigError(
            Fault(f"objective.{objective}", "compares what the backbone gives, of which nothing ever trains "
                  f"(freeze_policy={prospect.config.freeze_policy.name})", "a policy that trains layers",
                  "type freeze_policy=none, or leave it out")
        )  # fmt: skip


def add_second_view(batch: Batch) -> None:
    """The same inputs under another name, whose dropout is drawn anew (SimCSE, arXiv 2104.08821)."""
    batch.views[SECOND] = batch.views["clean"]


class Representation(nn.Module):
    """A unit vector (B, D) for each row of a view: pooled hidden states, through a projection of its own or not."""

    def __init__(self, network: Any, *, pooling: str, projection: int | None, seed: int):
        """`projection`: width of a two-layer perceptron (arXiv 2002.05709, 2004.11362); None: as pooled."""
        super().__init__()
        self.pooling = pooling_of_head(network) if pooling == "head" else pooling
        self.projection: nn.Module = nn.Identity()
        if projection:
            width = network.get_input_embeddings().weight.shape[1]
            width = getattr(network.config, "hidden_size", width)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(fold(seed, "projection"))
                self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projection))

    def forward(self, trunk: Views, view: str, batch: Batch) -> torch.Tensor:
        hidden_BTD = trunk.output(view, batch).last_hidden_state
        items_BD = self.projection(pooled(hidden_BTD, batch.views[view], self.pooling))
        return F.normalize(items_BD.float(), dim=-1)

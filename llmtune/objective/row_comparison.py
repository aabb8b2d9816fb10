"""What objectives that compare rows share: a unit vector for each row, and the cross-entropy of its likes among all.

Legend: B rows of a batch, T tokens, R items compared (rows, or several views of each), D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from llmtune.core.protocols import Views
from llmtune.core.seeds import fold
from llmtune.core.types import Batch
from llmtune.model.pooling import pooled, pooling_of_head

SECOND = "second"
"""the clean view once more: another name, so another dropout"""


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


def similarities(first_RD: torch.Tensor, second_RD: torch.Tensor, temperature: float) -> torch.Tensor:
    """(R, R) cosines of unit vectors over the temperature, in fp32 whatever the step's precision."""
    with torch.autocast(first_RD.device.type, enabled=False):
        return first_RD.float() @ second_RD.float().T / temperature


def likes_cross_entropy(scores_RR: torch.Tensor, likes_RR: torch.Tensor, others_RR: torch.Tensor) -> torch.Tensor:
    """Sum over rows r that have a like of -1/|P(r)| sum_{p in P(r)} log softmax over a in A(r) of scores[r, a] at p.

    Args:
        likes_RR: is the column one of P(r), which are among A(r)?
        others_RR: is it one of A(r)?
    """
    logs_RR = scores_RR.masked_fill(~others_RR, -torch.inf).log_softmax(-1)
    num_R = likes_RR.sum(-1)
    sums_R = logs_RR.masked_fill(~likes_RR, 0.0).sum(-1)
    return -(sums_R / num_R.clamp(min=1))[num_R > 0].sum()

"""Changes of a row's word embeddings: uniform noise, and steps uphill in the loss, each as long as the row asks.

Lengths are given as shares of the length of the row's own embeddings (the norm over its real tokens and their
width), so that one number serves models whose embeddings differ a hundredfold in size.

Legend: B rows, T tokens, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from llmtune.core.protocols import Views
from llmtune.core.seeds import fold
from llmtune.core.types import Batch

Make = Callable[[torch.Tensor], torch.Tensor]
"""word embeddings (B, T, D) -> what is added to them"""
Measure = Callable[[torch.Tensor], torch.Tensor]
"""logits (B, C) -> a sum over rows"""
RISE = 16.0
"""length of a row's gradient at the logits: only directions count, and fp16 keeps those of this size"""


class Changes:
    """Changes of the word embeddings of one micro-batch's clean view.

    The runs of one objective draw the same dropout, so a change is looked for in the network that it is then put to.

    Args:
        name: of the objective; where noise and dropout derive from.
        dropout: "" draws that of the clean run; None: one of the objective's own.
    """

    def __init__(self, name: str, trunk: Views, batch: Batch, *, dropout: str | None = None):
        self.name, self.trunk, self.batch = name, trunk, batch
        self.dropout = name if dropout is None else dropout
        view = batch.views["clean"]
        ids_BT, mask_BT = view["input_ids"], view.get("attention_mask")
        self.real_BT1 = (torch.ones_like(ids_BT) if mask_BT is None else mask_BT).unsqueeze(-1).float()
        self.sizes_B11 = torch.ones(())
        """length of each row's embeddings, as the model saw them last"""

    def logits(self, make: Make) -> torch.Tensor:
        """The task's logits_BC with `make(embedded_BTD)` added to the word embeddings; it takes no gradient."""

        def change(embedded_BTD: torch.Tensor) -> torch.Tensor:
            self.sizes_B11 = lengths(embedded_BTD.detach() * self.real_BT1).float()
            return embedded_BTD + make(embedded_BTD).detach().to(embedded_BTD.dtype)

        return self.trunk.perturbed("clean", self.batch, change, self.dropout)

    def searched(self, make: Make) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, and the change as a leaf that takes gradients."""
        made: list[torch.Tensor] = []

        def change(embedded_BTD: torch.Tensor) -> torch.Tensor:
            self.sizes_B11 = lengths(embedded_BTD.detach() * self.real_BT1).float()
            made.append(make(embedded_BTD).detach().requires_grad_())
            return embedded_BTD + made[0].to(embedded_BTD.dtype)

        return self.trunk.perturbed("clean", self.batch, change, self.dropout), made[0]

    def within_ball(self, embedded_BTD: torch.Tensor, radius: float) -> torch.Tensor:
        """Uniform noise, at most `radius` times as long as the row's embeddings (FreeLB's start)."""
        num_B11 = self.real_BT1.sum(1, keepdim=True) * embedded_BTD.shape[-1]
        return self.uniform(embedded_BTD) * (radius * self.sizes_B11 / num_B11.sqrt())

    def uniform(self, embedded_BTD: torch.Tensor) -> torch.Tensor:
        """From -1 to 1 at each row's real tokens, whatever batch the row is in; 0 at padding. (B, T, D)"""
        noise_BTD = torch.zeros(embedded_BTD.shape, device=embedded_BTD.device)
        for row, seed in enumerate(self.batch.row_seeds):
            generator = torch.Generator(embedded_BTD.device).manual_seed(fold(seed, self.name))
            real_T = self.real_BT1[row, :, 0].bool()
            shape = (int(real_T.sum()), embedded_BTD.shape[-1])
            noise_BTD[row, real_T] = torch.rand(shape, generator=generator, device=embedded_BTD.device) * 2 - 1
        return noise_BTD

    def uphill(
        self, total: torch.Tensor, logits_BC: torch.Tensor, at_BTD: torch.Tensor, *, keep: bool = False
    ) -> torch.Tensor:
        """Direction in which `total`, a sum over rows, grows fastest: (B, T, D), one row's embeddings long.

        No parameter gets a gradient of it. 0 for a row whose loss is flat or whose gradient is not finite.

        Args:
            at_BTD: the change that was added; a leaf that takes gradients.
            keep: the graph from `logits_BC` down is needed again.
        """
        (pull_BC,) = torch.autograd.grad(total, logits_BC, retain_graph=keep)
        pull_BC = pull_BC.float()
        pull_BC = pull_BC * (RISE / lengths(pull_BC).clamp(min=1e-30))
        (steep_BTD,) = torch.autograd.grad(logits_BC, at_BTD, pull_BC.to(logits_BC.dtype), retain_graph=keep)
        steep_BTD = steep_BTD.float() * self.real_BT1
        size_B11 = lengths(steep_BTD)
        usable_B11 = size_B11.isfinite() & (size_B11 > 0)
        return torch.where(usable_B11, steep_BTD / size_B11 * self.sizes_B11, 0.0)

    def within(self, change_BTD: torch.Tensor, radius: float) -> torch.Tensor:
        """The change, shortened to `radius` times the length of the row's embeddings where it is longer."""
        return change_BTD * (radius * self.sizes_B11 / lengths(change_BTD).clamp(min=1e-30)).clamp(max=1.0)

    def climb(self, make: Make, measure: Measure, *, steps: int, step_size: float, radius: float) -> Make:
        """Where `steps` steps uphill in `measure(logits_BC)` lead, from `make` on, none of them out of the ball."""
        for _ in range(steps):
            logits_BC, at_BTD = self.searched(make)
            uphill_BTD = self.uphill(measure(logits_BC), logits_BC, at_BTD)
            make = fixed(self.within(at_BTD.detach() + step_size * uphill_BTD, radius))
        return make


def fixed(change_BTD: torch.Tensor) -> Make:
    return lambda embedded_BTD: change_BTD


def lengths(rows: torch.Tensor) -> torch.Tensor:
    """Norm of each row over all its other dimensions, shaped (B, 1, ...) like `rows`."""
    return rows.flatten(1).norm(dim=1).view(-1, *[1] * (rows.ndim - 1))

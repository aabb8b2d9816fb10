"""Targets that are words: the loss of a task that teaches a model what to write, token by token.

Legend: B rows, N tokens of all rows of a batch that are to be written, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmtune.core.types import Batch, Loss

if TYPE_CHECKING:
    import torch


class WordTargets:
    """What a writing task holds to be taught by: one target a token, `logits_NV` row after row (model.word_model)."""

    def __init__(self, task: str):
        self.task = task
        """its name, for messages"""
        self.label_smoothing = 0.0

    def collate_targets(
        self, targets: Sequence[Sequence[int]] | None, cuts: list[list[int]] | None = None
    ) -> dict[str, torch.Tensor]:
        """`label`: the tokens of all rows end to end (N,); `row`: in which of the batch's rows each stands (N,)."""
        import torch

        targets = targets or []
        row_N = torch.repeat_interleave(torch.arange(len(targets)), torch.tensor([len(row) for row in targets]))
        return {"label": torch.tensor([token for row in targets for token in row], dtype=torch.long), "row": row_N}

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        """Raises ConfigError where what is for classes is set."""
        from llmtune.task.class_options import refuse_class_options

        refuse_class_options(self.task, options, but=["label_smoothing"])
        self.label_smoothing = options.label_smoothing

    def count(self, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None) -> float:
        return float(len(targets["label"]) if share_B is None else share_B[targets["row"]].sum())

    def loss(
        self, logits_NV: torch.Tensor, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None
    ) -> Loss:
        """Cross-entropy, per token."""
        import torch
        from torch.nn import functional as F

        label_N, smoothing = targets["label"], self.label_smoothing
        if share_B is None:
            total = F.cross_entropy(logits_NV, label_N, reduction="sum", label_smoothing=smoothing)
            return Loss(total, torch.tensor(float(len(label_N)), device=total.device))
        share_N = share_B[targets["row"]]
        losses_N = F.cross_entropy(logits_NV, label_N, reduction="none", label_smoothing=smoothing)
        return Loss((losses_N * share_N).sum(), share_N.sum())

    def loss_in_pieces(self, trunk: Any, batch: Batch) -> Loss | None:
        """The same where the scores of all tokens at once would take too much memory; None where they don't."""
        from llmtune.model.word_model import loss_of_words

        return loss_of_words(trunk, batch, batch.targets["label"], self.label_smoothing)

    def divergence(
        self, first_NV: torch.Tensor, second_NV: torch.Tensor, targets: Mapping[str, torch.Tensor]
    ) -> Loss:
        """Symmetric Kullback-Leibler divergence, per token."""
        import torch

        from llmtune.task.losses import divergence_by_row

        apart_N = divergence_by_row("single_label", first_NV, second_NV)
        return Loss(apart_N.sum(), torch.tensor(float(len(apart_N)), device=apart_N.device))

"""Connectionist temporal classification: transcripts spelled frame by frame (Graves et al., 2006).

Legend: B rows, T frames, V characters of the vocabulary, N characters of all transcripts of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmtune.core.types import Batch, Loss

if TYPE_CHECKING:
    import torch


class Spelling:
    """What a CTC task is taught by, and what it reads out of frames: the most probable character of each (greedy)."""

    def __init__(self, task: str):
        self.task = task
        """its name, for messages"""
        self.blank = 0
        self.silent: frozenset[int] = frozenset()
        """that stand for no character: the blank, and what is never written"""

    def use(self, tokenizer: Any) -> None:
        self.blank = tokenizer.pad_token_id
        self.silent = frozenset(tokenizer.all_special_ids) - {tokenizer.convert_tokens_to_ids(tokenizer.init_kwargs[
            "word_delimiter_token"])}  # fmt: skip

    def collate_targets(self, targets: Sequence[Sequence[int]] | None, cuts: Any = None) -> dict[str, torch.Tensor]:
        """`label`: the characters of all rows end to end (N,); `row`: in which of the rows each stands (N,)."""
        import torch

        targets = targets or []
        row_N = torch.repeat_interleave(torch.arange(len(targets)), torch.tensor([len(row) for row in targets]))
        return {"label": torch.tensor([one for row in targets for one in row], dtype=torch.long), "row": row_N}

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        """Raises ConfigError where what is for classes is set."""
        from llmtune.task.class_options import refuse_class_options

        refuse_class_options(self.task, options)

    def count(self, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None) -> float:
        return float(len(targets["label"]) if share_B is None else share_B[targets["row"]].sum())

    def losses(self, logits_BTV: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """-log of the probability of each row's transcript, over all ways to say it within its frames: (B,).

        Frames of padding hold a certain blank (model.speech_model), so all rows have as many.
        """
        import torch
        from torch.nn import functional as F

        rows, frames = logits_BTV.shape[:2]
        lengths_B = torch.bincount(targets["row"], minlength=rows)
        logs_TBV = logits_BTV.float().log_softmax(-1).transpose(0, 1)
        with torch.backends.cudnn.flags(enabled=False):  # its kernels take no long transcripts
            return F.ctc_loss(
                logs_TBV, targets["label"], torch.full_like(lengths_B, frames), lengths_B, blank=self.blank,
                reduction="none", zero_infinity=True,
            )  # fmt: skip

    def loss(
        self, logits_BTV: torch.Tensor, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None
    ) -> Loss:
        """Summed over rows; counted by their characters."""
        import torch

        losses_B = self.losses(logits_BTV, targets)
        total = (losses_B if share_B is None else losses_B * share_B).sum()
        return Loss(total, torch.tensor(self.count(targets, share_B), device=total.device))

    def divergence(
        self, first_BTV: torch.Tensor, second_BTV: torch.Tensor, targets: Mapping[str, torch.Tensor]
    ) -> Loss:
        """Symmetric Kullback-Leibler divergence of frames, summed over them and counted by characters."""
        import torch

        from llmtune.task.losses import divergence_by_row

        vocabulary = first_BTV.shape[-1]
        apart = divergence_by_row("single_label", first_BTV.reshape(-1, vocabulary), second_BTV.reshape(-1, vocabulary))
        return Loss(apart.sum(), torch.tensor(self.count(targets), device=apart.device))

    def examine(self, model: Any, batch: Batch) -> tuple[list[np.ndarray], Loss]:
        """For each row as task.writing keeps it: [loss, characters, 0], and one answer with its length before it."""
        import torch

        logits_BTV = model(**batch.views["clean"]).logits.float()
        known = "label" in batch.targets
        rows = len(batch.row_ids)
        losses_B = self.losses(logits_BTV, batch.targets) if known else torch.zeros(rows)
        chars_B = torch.bincount(batch.targets["row"], minlength=rows) if known else torch.zeros(rows)
        kept = [
            np.asarray([loss, chars, 0, 1, len(ids), *ids], dtype=np.float32)
            for loss, chars, ids in zip(losses_B.tolist(), chars_B.tolist(), self.read(logits_BTV))
        ]
        return kept, Loss(losses_B.sum(), chars_B.sum())

    def read(self, logits_BTV: torch.Tensor) -> list[list[int]]:
        """The characters of each row: the best of each frame, repetitions and blanks left out."""
        return [
            [one for one, before in zip(row, [None, *row]) if one != before and one not in self.silent]
            for row in logits_BTV.argmax(-1).tolist()
        ]

"""What a language model makes of rows of text: the loss of their words, for an evaluation.

Legend: B rows, T tokens, D width, V words of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from llmtune.core.seeds import fold
from llmtune.core.types import Batch
from llmtune.data.masking import Masker, bytes_of_tokens
from llmtune.model.language_head import LanguageHead, next_words, row_sums


class WordScores:
    """Sums by row. An encoder finds hidden words, the same in each evaluation; a decoder the next ones.

    The mean for an encoder is the logarithm of a pseudo-perplexity (Salazar et al., arXiv 1910.14659), of a sample of
    positions that are hidden together and not one by one.
    """

    def __init__(self, kind: str, tokenizer: Any):
        self.masker = Masker(tokenizer) if kind == "masked" else None
        bytes_V = bytes_of_tokens(tokenizer) if kind == "causal" else None
        self.bytes_V = None if bytes_V is None else torch.from_numpy(bytes_V)

    def sums(self, backbone: Any, head: LanguageHead, batch: Batch) -> torch.Tensor:
        """By row the loss of its words added up, their number, and the bytes that they are (0: not known): (B, 3)."""
        view = batch.views["clean"]
        ids_BT = view["input_ids"]
        bytes_B1 = torch.zeros(len(ids_BT), 1, device=ids_BT.device)
        if self.masker is not None:
            mask_BT = view.get("attention_mask")
            seeds = [fold(0, "evaluation", row) for row in batch.row_ids]
            hidden_BT, targets_BT = self.masker.mask(ids_BT.cpu(), None if mask_BT is None else mask_BT.cpu(), seeds)
            view, targets_BT = {**view, "input_ids": hidden_BT.to(ids_BT.device)}, targets_BT.to(ids_BT.device)
        else:
            targets_BT = next_words(view)
            if self.bytes_V is not None:
                sizes_BT = self.bytes_V.to(ids_BT.device)[targets_BT.clamp(min=0)]
                bytes_B1[:, 0] = torch.where(targets_BT >= 0, sizes_BT, 0).sum(dim=1)
        states_BTD = backbone(**view).last_hidden_state
        return torch.cat([row_sums(head, states_BTD, targets_BT), bytes_B1], dim=1)

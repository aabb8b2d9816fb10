"""What a language model makes of rows of text: the loss of their words, for an evaluation.

Legend: B rows, T tokens, D width, V words of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from llmtune.core.seeds import fold
from llmtune.core.types import Batch
from llmtune.data.text.masking import Masker, bytes_of_tokens
from llmtune.data.text.spans import MEAN_SPAN, NOISE_SHARE, Spans
from llmtune.model.language_head import LanguageHead, next_words, row_sums


class WordScores:
    """Sums by row. An encoder finds hidden words, a decoder the next ones, an encoder-decoder writes what was taken out
    of the row; what is hidden or taken out is the same in each evaluation, whatever training hides.

    The mean for an encoder is the logarithm of a pseudo-perplexity (Salazar et al., arXiv 1910.14659), of a sample of
    positions that are hidden together and not one by one.
    """

    def __init__(self, kind: str, tokenizer: Any, config: Any = None):
        """`kind`: masked, causal or sequence; `config`: the model's, which says how a decoder begins and ends."""
        self.masker = Masker(tokenizer) if kind == "masked" else None
        self.spans = Spans(tokenizer, config, NOISE_SHARE, MEAN_SPAN) if kind == "sequence" else None
        bytes_V = bytes_of_tokens(tokenizer) if kind == "causal" else None
        self.bytes_V = None if bytes_V is None else torch.from_numpy(bytes_V)

    def sums(self, backbone: Any, head: LanguageHead, batch: Batch) -> torch.Tensor:
        """By row the loss of its words added up, their number, and the bytes that they are (0: not known): (B, 3)."""
        view, targets_BT = self._asked(batch)
        output = backbone(**view)
        if hasattr(output, "last_hidden_state"):
            sums_B2 = row_sums(head, output.last_hidden_state, targets_BT)
        else:
            sums_B2 = row_sums(lambda logits_NV: logits_NV, output.logits, targets_BT)
        return torch.cat([sums_B2, self._bytes(batch, targets_BT)[:, None]], dim=1)

    def _asked(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Model inputs, and the targets_BT of what is to be found (-100: nothing)."""
        view = batch.views["clean"]
        if self.masker is None and self.spans is None:
            return view, next_words(view)
        device = view["input_ids"].device
        clean = {name: values.cpu() for name, values in view.items()}
        seeds = [fold(0, "evaluation", row) for row in batch.row_ids]
        if self.spans is not None:
            shown, targets_BT = self.spans.views(clean, seeds, "evaluation")
        else:
            assert self.masker is not None
            ids_BT, targets_BT = self.masker.mask(clean["input_ids"], clean.get("attention_mask"), seeds)
            shown = {**clean, "input_ids": ids_BT}
        return {name: values.to(device) for name, values in shown.items()}, targets_BT.to(device)

    def _bytes(self, batch: Batch, targets_BT: torch.Tensor) -> torch.Tensor:
        if self.masker is None and self.spans is None and "bytes" in batch.facts:
            known = [float(size) for (size,) in batch.facts["bytes"]]
            return torch.tensor(known, device=targets_BT.device)
        if self.bytes_V is None:
            return torch.zeros(len(targets_BT), device=targets_BT.device)
        sizes_BT = self.bytes_V.to(targets_BT.device)[targets_BT.clamp(min=0)]
        return torch.where(targets_BT >= 0, sizes_BT, 0).sum(dim=1).float()

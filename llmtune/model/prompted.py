"""A masked language model that answers with classes: the scores of a few words at the mask of each row.

The network stays transformers' own class (`BertForMaskedLM`), so its folder fills masks elsewhere too; only what an
instance puts out is another: class scores in the place of those of all words at all positions.

Legend: B rows, T tokens, D width, V words of the vocabulary, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForMaskedLM
from transformers.modeling_outputs import SequenceClassifierOutput

from llmtune.model.language_head import LanguageHead


@dataclass(frozen=True)
class PromptedMaskedLM:
    """Makes such models as transformers' Auto classes make theirs."""

    mask_id: int
    words: Sequence[Sequence[int]]
    """for each class the ids of its words"""

    def from_config(self, config: Any, *, attn_implementation: str | None = None) -> Any:
        return self._prompted(AutoModelForMaskedLM.from_config(config, attn_implementation=attn_implementation))

    def from_pretrained(self, path: Any, *, output_loading_info: bool = False, **kwargs: Any) -> Any:
        model, info = AutoModelForMaskedLM.from_pretrained(path, output_loading_info=True, **kwargs)
        return (self._prompted(model), info) if output_loading_info else self._prompted(model)

    def _prompted(self, model: Any) -> Any:
        head = LanguageHead(model, trained=True, shared=True)

        def forward(**view: torch.Tensor) -> SequenceClassifierOutput:
            """`logits` (B, C): the mean score of each class's words at the row's mask."""
            hidden_BTD = model.base_model(**view).last_hidden_state
            at_B = (view["input_ids"] == self.mask_id).int().argmax(dim=1)
            rows_B = torch.arange(len(at_B), device=at_B.device)
            scores_BV = head(hidden_BTD[rows_B, at_B])
            means = [scores_BV[:, list(ids)].mean(dim=1) for ids in self.words]
            return SequenceClassifierOutput(logits=torch.stack(means, dim=1))

        model.forward = forward
        return model

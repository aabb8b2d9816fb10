"""A classifier on pooled hidden states, for backbones whose own head reads something else (or that have none).

Sentence encoders were trained so that the mean over a text's tokens stands for it; transformers' classification
heads read the first token, or the last one of a decoder.

Legend: B rows, T tokens, D width, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import SequenceClassifierOutput

from llmtune.model.own_head import OwnHead
from llmtune.model.pooling import POOLING_KEY, pooled


class PooledClassifier(OwnHead):
    """Dropout and a linear layer on the first, the last or the mean of the tokens' states.

    The pooled vector is scaled to a mean square of 1: sentence encoders mean its direction, and lengths mislead a
    classifier that is fitted to few rows. The config names the pooling beside `num_labels`.
    """

    def make_head(self, config: Any) -> None:
        self.pooling: str = getattr(config, POOLING_KEY)
        self.dropout = nn.Dropout(self.head_dropout)
        self.classifier = nn.Linear(self.width, config.num_labels)
        # from 0 the first steps go along differences of class means; noise would outlast a short training by few rows
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, **view: torch.Tensor) -> SequenceClassifierOutput:
        """`logits` (B, C) of `input_ids` (B, T) and what else the backbone takes; rows are padded on the right."""
        hidden_BTD = self.backbone(**view).last_hidden_state
        pooled_BD = pooled(hidden_BTD, view, self.pooling)
        pooled_BD = functional.rms_norm(pooled_BD, pooled_BD.shape[-1:])
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(pooled_BD)))

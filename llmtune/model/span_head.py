"""A head that scores spans by their two ends, up to a width (biaffine; Yu et al., arXiv 2005.07150).

Legend: R sequences, T tokens, W widths, C types and none, D width of the backbone, d of the two ends' vectors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import TokenClassifierOutput

from llmtune.model.own_head import OwnHead

WIDTH_KEY = "span_width"
"""key in the config: tokens from the first one of a span to the last one's place, both counted"""
ENDS = 128
"""size of the vectors that stand for a token as the first and as the last of a span"""
RARE = 4.0
"""by how much the start prefers no entity: of all spans few are one"""


class SpanTagger(OwnHead):
    """For each token as a span's first, and each width, scores of no entity (class 0) and of each type.

    Memory is R x T x W x C: a band along the diagonal, never T x T.
    """

    def make_head(self, config: Any) -> None:
        classes = config.num_labels
        self.span_width: int = getattr(config, WIDTH_KEY)
        self.dropout = nn.Dropout(self.head_dropout)
        self.first = nn.Linear(self.width, ENDS)
        self.last = nn.Linear(self.width, ENDS)
        self.pair = nn.Parameter(torch.empty(ENDS, classes, ENDS))
        self.first_alone = nn.Linear(ENDS, classes)
        self.last_alone = nn.Linear(ENDS, classes, bias=False)
        self.width_scores = nn.Parameter(torch.zeros(self.span_width, classes))
        nn.init.normal_(self.pair, std=1 / ENDS)
        nn.init.zeros_(self.first_alone.bias)
        with torch.no_grad():
            self.first_alone.bias[0] = RARE

    def forward(self, **view: torch.Tensor) -> TokenClassifierOutput:
        """`logits` (R, T, W, C) of `input_ids` (R, T) and what else the backbone takes: [r, t, w] is the span from
        token t to token t + w; what lies behind the sequence means nothing."""
        hidden_RTD = self.dropout(self.backbone(**view).last_hidden_state)
        first_RTd = functional.gelu(self.first(hidden_RTD))
        last_RTd = functional.gelu(self.last(hidden_RTD))
        band_RTWd = along_band(last_RTd, self.span_width)
        ways_RTCd = torch.einsum("rtd,dce->rtce", first_RTd, self.pair)
        logits_RTWC = (ways_RTCd @ band_RTWd.transpose(-1, -2)).transpose(-1, -2)
        alone_RTWC = along_band(self.last_alone(last_RTd), self.span_width) + self.first_alone(first_RTd).unsqueeze(2)
        return TokenClassifierOutput(logits=(logits_RTWC + alone_RTWC + self.width_scores).float())


def along_band(values_RTd: torch.Tensor, width: int) -> torch.Tensor:
    """(R, T, W, d): at [r, t, w] the values of token t + w, 0 behind the sequence."""
    padded_RTd = functional.pad(values_RTd, (0, 0, 0, width - 1))
    return padded_RTd.unfold(1, width, 1).transpose(-1, -2)

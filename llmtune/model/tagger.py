"""A CRF on a backbone: what it puts out are the pairwise log potentials of model.crf, at every token.

Legend: R sequences, T tokens, C tags, P = C + 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import TokenClassifierOutput

from llmtune.data.tagging.schemes import SCHEMES, may_follow
from llmtune.model.crf import ILLEGAL, pair_potentials
from llmtune.model.own_head import OwnHead

SCHEME_KEY = "tag_scheme"
"""key in the config: the scheme that the tags of id2label are in"""


class CrfTagger(OwnHead):
    """A linear layer for each tag at each token, and a score for each step from tag to tag.

    Steps that the scheme does not allow have a fixed score far below all others, so what is decoded is never broken.
    """

    illegal_PP: torch.Tensor

    def make_head(self, config: Any) -> None:
        tags = config.num_labels
        self.dropout = nn.Dropout(self.head_dropout)
        self.classifier = nn.Linear(self.width, tags)
        self.transitions = nn.Parameter(torch.zeros(tags + 1, tags + 1))
        nn.init.normal_(self.classifier.weight, std=getattr(config, "initializer_range", 0.02))
        nn.init.zeros_(self.classifier.bias)
        self.register_buffer("illegal_PP", _illegal(config), persistent=False)

    def forward(self, **view: torch.Tensor) -> TokenClassifierOutput:
        """`logits` (R, T, P, P) of `input_ids` (R, T) and what else the backbone takes."""
        hidden_RTD = self.backbone(**view).last_hidden_state
        emission_RTC = self.classifier(self.dropout(hidden_RTD)).float()
        return TokenClassifierOutput(logits=pair_potentials(emission_RTC, self.transitions.float() + self.illegal_PP))


def _illegal(config: Any) -> torch.Tensor:
    """0 for steps that the scheme allows, ILLEGAL for others and from the start to the end: (P, P)."""
    tags = config.num_labels
    scheme = SCHEMES.get(getattr(config, SCHEME_KEY, ""))
    forbidden_PP = torch.zeros(tags + 1, tags + 1, dtype=torch.bool, device="cpu")
    if scheme is not None:
        first, pairs, last = may_follow([config.id2label[i] for i in range(tags)], scheme)
        forbidden_PP[:tags, :tags] = ~torch.tensor(pairs, device="cpu")
        forbidden_PP[tags, :tags] = ~torch.tensor(first, device="cpu")
        forbidden_PP[:tags, tags] = ~torch.tensor(last, device="cpu")
    forbidden_PP[tags, tags] = True
    return torch.zeros(forbidden_PP.shape, device="cpu").masked_fill(forbidden_PP, ILLEGAL)

"""A classifier of two marked entities: it reads the states at their marks, wherever these stand in a row.

Matching the blanks, Baldini Soares et al. (arXiv 1906.03158): of six ways to read a pair out of an encoder, the states
at the two opening marks did best. A decoder has read an entity only where it ends.

Legend: B rows, T tokens, D width, K states that are read, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from llmtune.model.language_head import language_kind
from llmtune.model.own_head import OwnHead
from llmtune.model.pooling import pooled

MARKS_KEY, STATES_KEY = "entity_marks", "entity_states"
"""where the config of such a model has the ids of the four marks, and what is read"""


class EntityPairClassifier(OwnHead):
    """The states at the marks side by side, a layer with tanh, a linear layer.

    `starts`: those at the two opening marks; `starts_and_first`: and the first token's; `ends_and_last`: those at the
    two closing marks and the last token's; `auto`: the latter for decoders, else `starts`.
    """

    def make_head(self, config: Any) -> None:
        self.marks: list[int] = list(getattr(config, MARKS_KEY))
        states = getattr(config, STATES_KEY)
        if states == "auto":
            states = "ends_and_last" if language_kind(config) == "causal" else "starts"
        self.states: str = states
        num_states = 2 if states == "starts" else 3
        self.dropout = nn.Dropout(self.head_dropout)
        self.dense = nn.Linear(num_states * self.width, self.width)
        self.classifier = nn.Linear(self.width, config.num_labels)
        spread = getattr(config, "initializer_range", None) or 0.02
        for layer in (self.dense, self.classifier):
            nn.init.normal_(layer.weight, std=spread)
            nn.init.zeros_(layer.bias)

    def forward(self, **view: torch.Tensor) -> SequenceClassifierOutput:
        """`logits` (B, C) of `input_ids` (B, T), in which each mark stands once, and what else the backbone takes."""
        hidden_BTD = self.backbone(**view).last_hidden_state
        side_by_side_BKD = self._read(hidden_BTD, view)
        seen_BD = torch.tanh(self.dense(self.dropout(side_by_side_BKD.flatten(1))))
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(seen_BD)))

    def _read(self, hidden_BTD: torch.Tensor, view: dict[str, torch.Tensor]) -> torch.Tensor:
        opening_1, closing_1, opening_2, closing_2 = self.marks
        ends = self.states == "ends_and_last"
        ids_BT = view["input_ids"]
        marks = (closing_1, closing_2) if ends else (opening_1, opening_2)
        places_BK = torch.stack([(ids_BT == mark).int().argmax(dim=1) for mark in marks], dim=1)
        rows_B1 = torch.arange(len(ids_BT), device=ids_BT.device)[:, None]
        states_BKD = hidden_BTD[rows_B1, places_BK]
        if self.states == "starts":
            return states_BKD
        whole_BD = pooled(hidden_BTD, view, "last" if ends else "first")
        return torch.cat([states_BKD, whole_BD[:, None]], dim=1)

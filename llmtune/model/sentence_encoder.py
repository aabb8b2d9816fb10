"""A backbone whose output is one unit vector for each text: what sentence embeddings are trained with.

A folder of such a model is the plain backbone; beside it lie the small files by which sentence-transformers opens the
same folder, with the same vectors.

Legend: R texts, T tokens, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers.modeling_outputs import SequenceClassifierOutput

from llmtune.model.language_head import language_kind
from llmtune.model.own_head import OwnHead
from llmtune.model.pooling import POOLING_KEY, pooled

MODULES = {"": "models.Transformer", "1_Pooling": "models.Pooling", "2_Normalize": "models.Normalize"}
MODES = {"mean": "pooling_mode_mean_tokens", "first": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}


class SentenceEncoder(OwnHead):
    """AutoModel and a pooling of its last hidden states: `config.sentence_pooling` is mean, first or last (token).

    `auto` is settled here: the last token of a model that reads from left to right, the mean of any other.
    """

    def make_head(self, config: Any) -> None:
        """Settle how hidden states are pooled; that has no weights."""
        if getattr(config, POOLING_KEY, "auto") == "auto":
            setattr(config, POOLING_KEY, "last" if language_kind(config) == "causal" else "mean")
        self.pooling: str = getattr(config, POOLING_KEY)

    def forward(self, **view: torch.Tensor) -> SequenceClassifierOutput:
        """`logits` (R, D): unit vectors in fp32 of `input_ids` (R, T), padded on the right."""
        hidden_RTD = self.backbone(**view).last_hidden_state
        vectors_RD = functional.normalize(pooled(hidden_RTD, view, self.pooling).float(), dim=-1)
        return SequenceClassifierOutput(logits=vectors_RD)

    def save_pretrained(self, folder: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """The backbone as transformers writes it, and what sentence-transformers asks for besides."""
        super().save_pretrained(folder, **kwargs)
        modules = [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.{kind}"}
            for number, (path, kind) in enumerate(MODULES.items())
        ]
        pooling = {"word_embedding_dimension": self.width, **{key: mode == self.pooling for mode, key in MODES.items()}}
        (Path(folder) / "1_Pooling").mkdir(exist_ok=True)
        (Path(folder) / "2_Normalize").mkdir(exist_ok=True)
        _write(Path(folder) / "modules.json", modules)
        _write(Path(folder) / "1_Pooling" / "config.json", pooling)


def _write(path: Path, plain: Any) -> None:
    path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")

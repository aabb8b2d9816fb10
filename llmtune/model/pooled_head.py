"""A classifier on pooled hidden states, for backbones whose own head reads something else (or that have none).

Sentence encoders were trained so that the mean over a text's tokens stands for it; transformers' classification
heads read the first token, or the last one of a decoder. A folder of such a model is the plain backbone with
head.safetensors beside it: transformers has no class for the two together.

Legend: B rows, T tokens, D width, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from llmtune.model.pooling import POOLING_KEY, pooled
from llmtune.model.task_head import FILE, head_weights, load_head

DROPOUTS = ("classifier_dropout", "hidden_dropout_prob", "seq_classif_dropout", "resid_pdrop", "hidden_dropout")
"""keys of configs, the first that has a number says how much is dropped before the classifier"""


class PooledClassifier(PreTrainedModel):
    """AutoModel, dropout, and a linear layer on the first, the last or the mean of the tokens' states.

    The pooled vector is scaled to a mean square of 1: sentence encoders mean its direction, and lengths mislead a
    classifier that is fitted to few rows.

    `config` is the backbone's; it names the pooling beside `num_labels`. It is made by `from_config` and
    `from_pretrained`, which take what transformers' Auto classes take.
    """

    base_model_prefix = "backbone"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    """whether the backbone does is looked at where it is made"""

    def __init__(self, backbone: Any):
        super().__init__(backbone.config)
        config = backbone.config
        self.backbone = backbone
        self.supports_gradient_checkpointing = backbone.supports_gradient_checkpointing
        self.pooling: str = getattr(config, POOLING_KEY)
        shares = (getattr(config, key, None) for key in DROPOUTS)
        self.dropout = nn.Dropout(next((share for share in shares if share is not None), 0.0))
        width = getattr(config, "hidden_size", None) or backbone.get_input_embeddings().weight.shape[1]
        self.classifier = nn.Linear(width, config.num_labels)
        # from 0 the first steps go along differences of class means; noise would outlast a short training by few rows
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    @classmethod
    def from_config(cls, config: Any, *, attn_implementation: str | None = None) -> PooledClassifier:
        """The backbone at random, the head at 0."""
        return cls(AutoModel.from_config(config, attn_implementation=attn_implementation))

    @classmethod
    def from_pretrained(cls, path: Any, *, output_loading_info: bool = False, **kwargs: Any) -> Any:  # type: ignore[override]
        """The backbone from any folder or hub id, the head from head.safetensors if one that fits lies there.

        Returns:
            The model in eval mode; with `output_loading_info` also transformers' report, the head in it.
        """
        backbone, info = AutoModel.from_pretrained(path, output_loading_info=True, **kwargs)
        model = cls(backbone)
        missing = {f"backbone.{name}" for name in info["missing_keys"]}
        try:
            load_head(model, Path(path))
        except (OSError, ValueError):  # none there, or of other classes
            missing |= set(head_weights(model))
        mismatched = {(f"backbone.{name}", *shapes) for name, *shapes in info["mismatched_keys"]}
        found = {**info, "missing_keys": missing, "mismatched_keys": mismatched}
        return (model.eval(), found) if output_loading_info else model.eval()

    def save_pretrained(self, folder: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """The backbone as transformers writes it, and head.safetensors."""
        self.backbone.save_pretrained(folder, **kwargs)
        save_file({name: value.contiguous().clone() for name, value in head_weights(self).items()}, Path(folder) / FILE)

    def get_input_embeddings(self) -> Any:
        return self.backbone.get_input_embeddings()

    def forward(self, **view: torch.Tensor) -> SequenceClassifierOutput:
        """`logits` (B, C) of `input_ids` (B, T) and what else the backbone takes; rows are padded on the right."""
        hidden_BTD = self.backbone(**view).last_hidden_state
        pooled_BD = pooled(hidden_BTD, view, self.pooling)
        pooled_BD = functional.rms_norm(pooled_BD, pooled_BD.shape[-1:])
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(pooled_BD)))

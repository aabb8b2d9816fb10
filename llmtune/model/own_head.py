"""A head of our own on a plain backbone, where transformers has no class for the two together.

A folder of such a model is the backbone as transformers writes it, with head.safetensors beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import AutoModel, PreTrainedModel

from llmtune.model.task_head import FILE, head_weights, load_head

DROPOUTS = ("classifier_dropout", "hidden_dropout_prob", "seq_classif_dropout", "resid_pdrop", "hidden_dropout")
"""keys of configs, the first that has a number says how much is dropped before the head"""


class OwnHead(PreTrainedModel):
    """AutoModel as `backbone`, and what `make_head` adds; `forward(**view)` returns an output with `logits`.

    `config` is the backbone's, with what the head must know beside it. It is made by `from_config` and
    `from_pretrained`, which take what transformers' Auto classes take.
    """

    base_model_prefix = "backbone"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    """whether the backbone does is looked at where it is made"""

    def __init__(self, backbone: Any):
        super().__init__(backbone.config)
        self.backbone = backbone
        self.supports_gradient_checkpointing = backbone.supports_gradient_checkpointing
        self.make_head(backbone.config)

    def make_head(self, config: Any) -> None:
        """Set the head's modules; those of `config` are known."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Of the backbone's states."""
        return getattr(self.config, "hidden_size", None) or self.get_input_embeddings().weight.shape[1]

    @property
    def head_dropout(self) -> float:
        """The share that the backbone's config says is dropped before a head."""
        shares = (getattr(self.config, key, None) for key in DROPOUTS)
        return next((share for share in shares if share is not None), 0.0)

    @classmethod
    def from_config(cls, config: Any, *, attn_implementation: str | None = None) -> Any:
        """The backbone at random, the head as `make_head` leaves it."""
        return cls(AutoModel.from_config(config, attn_implementation=attn_implementation))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: Any, *, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """The backbone from any folder or hub id, the head from head.safetensors if one that fits lies there.

        Returns:
            The model in eval mode; with `output_loading_info` also transformers' report, the head in it.
        """
        path = pretrained_model_name_or_path
        backbone, info = AutoModel.from_pretrained(path, output_loading_info=True, **kwargs)
        model = cls(backbone)
        missing = {f"backbone.{name}" for name in info["missing_keys"]}
        try:
            if head_weights(model):
                load_head(model, Path(path))
        except (OSError, ValueError):  # none there, or of another shape
            missing |= set(head_weights(model))
        mismatched = {(f"backbone.{name}", *shapes) for name, *shapes in info["mismatched_keys"]}
        found = {**info, "missing_keys": missing, "mismatched_keys": mismatched}
        return (model.eval(), found) if output_loading_info else model.eval()

    def save_pretrained(self, folder: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """The backbone as transformers writes it, and head.safetensors where the head has weights."""
        self.backbone.save_pretrained(folder, **kwargs)
        weights = {name: value.contiguous().clone() for name, value in head_weights(self).items()}
        if weights:
            save_file(weights, Path(folder) / FILE)

    def get_input_embeddings(self) -> Any:
        return self.backbone.get_input_embeddings()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Of the backbone, which is what has them."""
        return self.backbone.resize_token_embeddings(*args, **kwargs)

"""One vector for a row out of the backbone's hidden states: the first token's, the last one's, or the mean.

Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

POOLINGS = ("head", "first", "last", "mean")
POOLING_KEY = "sentence_pooling"
"""where the config of a model with a pooled head (model.pooled_head) names what that head reads"""
LAST = ("xlnet",)
"""families whose classification head reads the last token though they are no decoders"""


def pooling_of_head(network: Any) -> str:
    """`first`, `last` or `mean`: what the classification head of a Hugging Face task model reads."""
    config = network.config
    if getattr(config, POOLING_KEY, None):
        return getattr(config, POOLING_KEY)
    told = {"cls": "first", "mean": "mean"}.get(getattr(config, "classifier_pooling", None) or "")
    if told:
        return told
    decodes = config.is_encoder_decoder or hasattr(network, "score")  # all decoders call their head so
    return "last" if decodes or config.model_type in LAST else "first"


def pooled(hidden_BTD: torch.Tensor, view: Mapping[str, torch.Tensor], pooling: str) -> torch.Tensor:
    """(B, D) of hidden states of `view`, padded on the right; `pooling`: first | last | mean over the real tokens."""
    if pooling == "first":
        return hidden_BTD[:, 0]
    mask_BT = view.get("attention_mask")
    if mask_BT is None:
        return hidden_BTD[:, -1] if pooling == "last" else hidden_BTD.mean(dim=1)
    if pooling == "last":
        rows_B = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
        return hidden_BTD[rows_B, mask_BT.sum(dim=1) - 1]
    real_BT1 = mask_BT[..., None].to(hidden_BTD.dtype)
    return (hidden_BTD * real_BT1).sum(dim=1) / real_BT1.sum(dim=1)

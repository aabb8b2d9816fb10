"""Parts: what is known only at run time, handed to a shelf entry's `build(parts)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Settings say what the user wants; parts say what is there. The two share no names."""

    task: Any
    """the built Task"""
    network: Any
    """the Hugging Face task model (nn.Module)"""
    layers: Any
    """its LayerMap"""
    token_table: Any
    """the tokenizer"""
    options: Any
    """TrainSettings"""
    num_steps: int
    """optimizer steps of the whole run"""
    steps_per_epoch: int
    peak_lr: float
    """`optimizer.lr`, or what the model recommends"""

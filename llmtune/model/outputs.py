"""The logits in what a Hugging Face model puts out, whatever its head calls them.

Legend: R sequences, T tokens, C classes, V words.
"""

from __future__ import annotations

from typing import Any

import torch


def logits_of(output: Any) -> torch.Tensor:
    """`logits` (R, C) or (R, T, C); of a model for pre-training those of words (R, T, V); of a head for question
    answering (R, T, 2): where an answer begins and ends."""
    if getattr(output, "start_logits", None) is not None:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    if getattr(output, "prediction_logits", None) is not None:
        return output.prediction_logits
    return output.logits

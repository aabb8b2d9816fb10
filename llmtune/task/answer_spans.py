"""From the logits of windows to losses and to the best spans of a question.

Legend: R windows, T tokens, B rows, K spans.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from llmtune.task.answer_windows import NOT_SCORED


def scored(label_R2: torch.Tensor) -> torch.Tensor:
    """Which windows count in the loss: (R,)."""
    return label_R2[:, 0] != NOT_SCORED


def allowed(num_tokens: int, region_R2: torch.Tensor) -> torch.Tensor:
    """Where an answer may begin and end: in the context, or at the first token, which says "not here"; (R, T)."""
    place_T = torch.arange(num_tokens, device=region_R2.device)
    inside_RT = (place_T >= region_R2[:, :1]) & (place_T < region_R2[:, 1:])
    return inside_RT | (place_T == 0)


def span_losses(logits_RT2: torch.Tensor, label_R2: torch.Tensor, region_R2: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the start plus that of the end, over allowed places; 0 for windows that are not scored; (R,)."""
    allowed_RT = allowed(logits_RT2.shape[1], region_R2)
    logs_RT2 = logits_RT2.masked_fill(~allowed_RT[..., None], float("-inf")).log_softmax(dim=1)
    found_R2 = logs_RT2.gather(1, label_R2.clamp(min=0)[:, None])[:, 0]
    return torch.where(scored(label_R2), -found_R2.sum(-1), torch.zeros_like(found_R2[:, 0]))


def span_divergences(
    first_RT2: torch.Tensor, second_RT2: torch.Tensor, label_R2: torch.Tensor, region_R2: torch.Tensor
) -> torch.Tensor:
    """Symmetric KL of the starts plus that of the ends, over allowed places: (R,)."""
    barred_RT1 = ~allowed(first_RT2.shape[1], region_R2)[..., None]
    p_RT2, q_RT2 = (
        logits_RT2.masked_fill(barred_RT1, float("-inf")).softmax(dim=1) for logits_RT2 in (first_RT2, second_RT2)
    )
    apart_RT2 = (first_RT2 - second_RT2).masked_fill(barred_RT1, 0.0)
    return ((p_RT2 - q_RT2) * apart_RT2).sum(dim=(1, 2)) / 2 * scored(label_R2)


def best_spans(logits_RT2: np.ndarray, regions_R3: np.ndarray, *, max_answer_tokens: int, num_spans: int) -> np.ndarray:
    """The best spans over all windows of one row: (1 + K, 3), fp32.

    Row 0 has the score of "no answer" (the lowest over the windows, as each must say so); the others score, first and
    last token in the context, the best first. A score is the logit of the start plus that of the end. K is at most
    `num_spans`, less where the context is short.
    """
    found: dict[tuple[int, int], float] = {}
    for logits_T2, (first, end, start) in zip(logits_RT2, regions_R3):
        size = int(end - first)
        if size <= 0:
            continue
        width = min(max_answer_tokens, size)
        ends = np.concatenate([logits_T2[first:end, 1], np.full(width - 1, -np.inf, dtype=logits_T2.dtype)])
        scores = logits_T2[first:end, :1] + np.lib.stride_tricks.sliding_window_view(ends, width)
        flat = scores.reshape(-1)
        most = min(num_spans, flat.size)
        for place in np.argpartition(-flat, most - 1)[:most]:
            left, length = divmod(int(place), width)
            if np.isfinite(flat[place]):
                span = (int(start) + left, int(start) + left + length)
                found[span] = max(float(flat[place]), found.get(span, -np.inf))
    spans = sorted(found, key=lambda span: (-found[span], span))[:num_spans]
    rows = [(float(logits_RT2[:, 0].sum(axis=-1).min()), 0.0, 0.0), *((found[span], *span) for span in spans)]
    return np.array(rows, dtype=np.float32)


def rows_of(num_sequences: Sequence[int]) -> torch.Tensor:
    """Which row each window belongs to: (R,)."""
    return torch.repeat_interleave(torch.arange(len(num_sequences)), torch.tensor(num_sequences))

"""Language models that are asked how likely whole answers are: what losses of preferences compare.

Legend: S sequences, T tokens, D width, N wanted positions, V words of the vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import SequenceClassifierOutput

from llmtune.data.batches.feed import WANTED
from llmtune.model.language_head import IGNORED, MOST_SCORES, LanguageHead, next_words
from llmtune.model.word_model import HEAD_ATTRIBUTE, WordModel


@dataclass(frozen=True)
class AnswerScorer:
    """Makes decoders as `WordModel` does; asked with `wanted`, their `logits` are (S, 2) and not those of words: of
    each sequence the log-probability of all its tokens that are wanted, as a sum, and how many they are."""

    def from_config(self, config: Any, **kwargs: Any) -> Any:
        return scoring(WordModel("causal").from_config(config, **kwargs))

    def from_pretrained(self, path: Any, *, output_loading_info: bool = False, **kwargs: Any) -> Any:
        model, info = WordModel("causal").from_pretrained(path, output_loading_info=True, **kwargs)
        return (scoring(model), info) if output_loading_info else scoring(model)


def scoring(model: Any) -> Any:
    """The same model, made by `WordModel`, which sums up what it makes of the wanted tokens."""
    before = getattr(model, "forward")  # noqa: B009 - WordModel's, or transformers' own
    (head,) = getattr(model, HEAD_ATTRIBUTE)

    def forward(*args: Any, **view: Any) -> Any:
        wanted_ST = view.pop(WANTED, None)
        if wanted_ST is None:
            return before(*args, **view)
        hidden_STD = model.base_model(*args, **view).last_hidden_state
        return SequenceClassifierOutput(logits=answer_scores(head, hidden_STD, _targets(view, wanted_ST)))

    forward.__signature__ = inspect.signature(before)  # type: ignore[attr-defined]
    model.forward = forward
    return model


def _targets(view: Mapping[str, torch.Tensor], wanted_ST: torch.Tensor) -> torch.Tensor:
    """At each wanted position the id of the token after it, elsewhere -100: (S, T)."""
    return next_words(view).masked_fill(wanted_ST == 0, IGNORED)


def answer_scores(head: LanguageHead, hidden_STD: torch.Tensor, targets_ST: torch.Tensor) -> torch.Tensor:
    """(S, 2) in fp32: log-probabilities of the targets, and their number.

    Where the scores of all words (N, V) would take too much memory they are made, and made again in the backward
    pass, piece by piece.
    """
    wanted_ST = targets_ST != IGNORED
    rows_N = wanted_ST.nonzero()[:, 0]
    hidden_ND, targets_N = hidden_STD[wanted_ST], targets_ST[wanted_ST]
    num = len(targets_N)
    piece = num if num * head.num_words <= MOST_SCORES else max(1, MOST_SCORES // (4 * head.num_words))
    sums_S = 0 * hidden_ND.float().sum() + torch.zeros(len(targets_ST), device=hidden_STD.device)
    for start in range(0, num, max(1, piece)):
        part = slice(start, start + piece)
        some = (head, hidden_ND[part], targets_N[part])
        again = piece < num and torch.is_grad_enabled()
        logs_N = checkpoint(_logs, *some, use_reentrant=False) if again else _logs(*some)
        sums_S = sums_S.index_add(0, rows_N[part], logs_N)
    return torch.stack([sums_S, wanted_ST.sum(1).to(sums_S)], dim=1)


def _logs(head: LanguageHead, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """log-probability of each target (N,)."""
    return -F.cross_entropy(head(hidden_ND).float(), targets_N, reduction="none")

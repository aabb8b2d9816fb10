"""How much each weight matters to what a model knows of texts: the diagonal of the Fisher information.

Legend: T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llmtune.core.seeds import fold, generator
from llmtune.data.text.masking import Masker
from llmtune.data.text.plain_text import PlainText, plain_rows
from llmtune.model.language_head import LanguageHead, language_kind, next_words, word_loss


def sampled_ids(parts: Any, file: str | None, num: int) -> list[dict[str, torch.Tensor]]:
    """Model inputs of `num` texts drawn from a file of plain text (None: from the training rows), each (1, T)."""
    from llmtune.data.batches.feed import table_of
    from llmtune.data.rows import read_splits

    rng = generator(parts.config.seed, "ewc")
    if file is None:
        table = table_of(parts.splits["train"], parts.token_table, parts.task)
        chosen = rng.permutation(len(table))[:num]
        return [table.inputs(np.array([row])) for row in chosen]
    raw = read_splits(plain_rows(parts.config, file), PlainText.roles, offline=parts.config.offline).splits["train"]
    texts = raw.select(sorted(rng.permutation(len(raw))[:num]))["text"][:]
    encoded = PlainText().encoder(parts.token_table)({"text": texts}, parts.max_tokens)
    return [{key: torch.tensor([ids]) for key, ids in zip(encoded, row)} for row in zip(*encoded.values())]


def importances(
    network: Any, head: LanguageHead, names: frozenset[str], rows: Sequence[dict[str, torch.Tensor]], parts: Any
) -> dict[str, torch.Tensor]:
    """By name the mean over rows of the squared gradient of a row's log-likelihood, scaled to a mean of 1 over all.

    Masked words of an encoder, next words of a decoder; the words are those of the text (the empirical Fisher).
    Dropout is off. The weights are left as they are.
    """
    masked = language_kind(network.config) == "masked"
    masker = Masker(parts.token_table, unit="token", keep_share=0.0, random_share=0.0) if masked else None
    held = {name: weight for name, weight in network.named_parameters() if name in names}
    asked = {name: weight.requires_grad for name, weight in held.items()}
    modes = {module: module.training for module in network.modules()}
    network.eval()
    sums = {name: torch.zeros_like(weight) for name, weight in held.items()}
    for weight in held.values():
        weight.requires_grad_(True)
    for number, row in enumerate(rows):
        total = _row_loss(network, head, row, masker, fold(parts.config.seed, "ewc", number))
        found = torch.autograd.grad(total, list(held.values()), allow_unused=True)
        for name, grad in zip(held, found):
            if grad is not None:
                sums[name].addcmul_(grad, grad)
    for name, weight in held.items():
        weight.requires_grad_(asked[name])
    for module, training in modes.items():
        module.training = training
    mean = sum(float(value.double().sum()) for value in sums.values()) / sum(value.numel() for value in sums.values())
    return {name: value / max(mean, 1e-30) for name, value in sums.items()}


def _row_loss(
    network: Any, head: LanguageHead, row: dict[str, torch.Tensor], masker: Masker | None, seed: int
) -> torch.Tensor:
    if masker is None:
        view, targets_BT = row, next_words(row)
    else:
        ids_BT, targets_BT = masker.mask(row["input_ids"], None, [seed])
        view = {**row, "input_ids": ids_BT}
    device = next(network.parameters()).device
    hidden_BTD = network.base_model(**{key: value.to(device) for key, value in view.items()}).last_hidden_state
    return word_loss(head, hidden_BTD, targets_BT.to(device)).total

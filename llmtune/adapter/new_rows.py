"""Rows of tokens that are new to a model: they train beside the table of words, which an adapter leaves as it is.

Legend: B rows, T tokens, D width, V words of the vocabulary, N new tokens.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from llmtune.model.new_tokens import new_ids

SLOT = "adapter_new_rows"
"""name of the child of the word embeddings"""


class NewRows(nn.Module):
    """What is added to the rows of N token ids: nothing at the start, so that decay goes back to how they started."""

    ids_N: torch.Tensor

    def __init__(self, ids: Sequence[int], table_VD: torch.Tensor):
        super().__init__()
        self.change_ND = nn.Parameter(table_VD.new_zeros(len(ids), table_VD.shape[1]))
        self.register_buffer("ids_N", torch.tensor(ids, device=table_VD.device), persistent=False)

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """(B, T, D): what is added to the embeddings of these tokens, 0 to those that are known."""
        is_new_BTN = ids_BT[..., None] == self.ids_N
        change_BTD = functional.embedding(is_new_BTN.int().argmax(dim=-1), self.change_ND)
        return torch.where(is_new_BTN.any(dim=-1, keepdim=True), change_BTD, 0)


def put_in(network: Any) -> None:
    """Let rows for the tokens that are new to the network train, in place, also on the meta device.

    Where the table of words serves at several places (a decoder's, scores of words), the rows serve there too.
    """
    ids = new_ids(network)
    if not ids:
        return
    words = network.get_input_embeddings()
    words.add_module(SLOT, NewRows(ids, words.weight.detach()))
    for module in network.modules():
        if getattr(module, "weight", None) is words.weight:
            change = _change_embeddings if isinstance(module, nn.Embedding) else _change_scores
            module.register_forward_hook(functools.partial(change, words))


@contextlib.contextmanager
def folded_in(network: Any) -> Iterator[str | None]:
    """The new rows in the table of words, which is the plain one again; put back afterwards. The table's name, where
    there are new rows."""
    words = network.get_input_embeddings()
    rows = words._modules.pop(SLOT, None)
    if rows is None:
        yield None
        return
    table_VD, ids_N = words.weight.data, rows.ids_N
    before_ND = table_VD[ids_N].clone()
    table_VD[ids_N] += rows.change_ND.data
    try:
        yield next(name for name, parameter in network.named_parameters() if parameter is words.weight)
    finally:
        table_VD[ids_N] = before_ND
        words.add_module(SLOT, rows)


def _change_embeddings(words: nn.Module, module: nn.Module, inputs: Any, embedded_BTD: torch.Tensor) -> torch.Tensor:
    rows = words._modules.get(SLOT)
    if rows is None:
        return embedded_BTD
    return embedded_BTD + rows(inputs[0]) * getattr(module, "embed_scale", 1.0)  # BART's and Gemma's kinds have one


def _change_scores(words: nn.Module, module: nn.Module, inputs: Any, scores_BTV: torch.Tensor) -> torch.Tensor:
    rows: Any = words._modules.get(SLOT)
    if rows is None:
        return scores_BTV
    return scores_BTV.index_add(-1, rows.ids_N, functional.linear(inputs[0], rows.change_ND).to(scores_BTV.dtype))

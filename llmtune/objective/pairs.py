"""Pairs of rows and their mixing inside the model: what mixup is made of.

Legend: B rows, T tokens, D width, C classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from llmtune.core.protocols import Views
from llmtune.core.types import Batch
from llmtune.data.batches.feed import TokenTable
from llmtune.model.language_head import language_kind
from llmtune.model.prefix import lower_stack

Look = Callable[[int, torch.Tensor], "torch.Tensor | None"]
"""number of a layer (0: word embeddings), its output (B, T, D) -> what takes its place, or None"""


class Pairs:
    """Partners out of the whole training set, so that who is paired does not depend on how a step is cut.

    A partner is never longer than its row: nothing of it is lost, and a batch keeps its size.
    """

    def __init__(self, rows: Any, pad_id: int, collate_targets: Any):
        self.table = TokenTable(rows, pad_id=pad_id)
        self.collate_targets = collate_targets
        self.by_length = np.argsort(self.table.lengths, kind="stable")
        self.sorted_lengths = self.table.lengths[self.by_length]

    def draw(self, row: int, rng: np.random.Generator) -> int:
        num_fitting = np.searchsorted(self.sorted_lengths, self.table.lengths[row], side="right")
        return int(self.by_length[rng.integers(num_fitting)])

    def of(self, partners: Sequence[int]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Model inputs and targets of these rows."""
        batch = self.table.batch(np.asarray(partners), self.collate_targets)
        return batch.views["clean"], batch.targets


def mixed_logits(
    trunk: Views, network: Any, batch: Batch, partner: str, share_B: torch.Tensor, layer_B: torch.Tensor
) -> torch.Tensor:
    """logits_BC of the clean view, its states after layer `layer_B` (0: word embeddings) mixed with the partner's:
    share x own + (1 - share) x partner's at the places where both have a token.

    Rows begin together, or end together where the model reads from left to right and answers at the last token.
    """
    ours, theirs = batch.views["clean"], batch.views[partner]
    at_BT, both_BT = _places(ours, theirs, at_end=language_kind(network.config) == "causal")
    states: dict[int, torch.Tensor] = {}

    def keep(number: int, state_BTD: torch.Tensor) -> None:
        if bool((layer_B == number).any()):
            states[number] = state_BTD

    def mix(number: int, state_BTD: torch.Tensor) -> torch.Tensor | None:
        if number not in states:
            return None
        other_BTD = states[number].gather(1, at_BT.unsqueeze(-1).expand(-1, -1, state_BTD.shape[-1]))
        own_B11 = share_B.to(state_BTD.dtype).view(-1, 1, 1)
        here_BT1 = (both_BT & (layer_B == number).unsqueeze(-1)).unsqueeze(-1)
        return torch.where(here_BT1, own_B11 * state_BTD + (1 - own_B11) * other_BTD, state_BTD)

    if bool((layer_B > 0).any()):
        with trunk.hooked(), _looking(network, keep):
            trunk.again(partner, batch, "mixup partner")
    else:
        states[0] = network.get_input_embeddings()(theirs["input_ids"])
    with _looking(network, mix):
        return trunk.perturbed("clean", batch, lambda embedded_BTD: embedded_BTD, "mixup")


def _places(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], *, at_end: bool) -> Any:
    """For each token of a row the place of its partner's token, and whether there is one: two tensors (B, T)."""
    lengths_B, others_B = (_lengths(view) for view in (ours, theirs))
    width = ours["input_ids"].shape[1]
    shift_B = (lengths_B - others_B) if at_end else torch.zeros_like(lengths_B)
    at_BT = torch.arange(width, device=lengths_B.device) - shift_B.unsqueeze(-1)
    both_BT = (at_BT >= 0) & (at_BT < others_B.unsqueeze(-1))
    return at_BT.clamp(0, theirs["input_ids"].shape[1] - 1), both_BT


def _lengths(view: dict[str, torch.Tensor]) -> torch.Tensor:
    mask_BT = view.get("attention_mask")
    return (torch.ones_like(view["input_ids"]) if mask_BT is None else mask_BT).sum(1)


@contextlib.contextmanager
def _looking(network: Any, look: Look) -> Iterator[None]:
    """Let `look` see the word embeddings and what each layer gives, and replace it."""

    def hook(number: int) -> Callable[..., Any]:
        def seen(module: Any, args: Any, output: Any) -> Any:
            several = isinstance(output, tuple)
            new = look(number, output[0] if several else output)
            return None if new is None else (new, *output[1:]) if several else new

        return seen

    modules = [network.get_input_embeddings(), *lower_stack(network.base_model)]
    handles = [module.register_forward_hook(hook(number)) for number, module in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""A teacher that reads each batch beside the student: its answers by token, and what its layers gave.

Legend: R sequences, T tokens.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import torch

from llmtune.core.types import Batch
from llmtune.data.batches.feed import WANTED
from llmtune.model.trunk import Trunk
from llmtune.objective.token_answers import Spoken, TokenAnswers, head_of, spoken


class LiveTeacher:
    """A trained model in eval mode, run once per view and batch without gradients; inputs that its family doesn't know
    are left out."""

    def __init__(self, model: Any, wants: Sequence[str], answers: TokenAnswers | None):
        self.model = model
        self.answers = answers
        self._head = None if answers is None else head_of(model, answers)
        self._known = {*inspect.signature(type(model.base_model).forward).parameters, WANTED}
        for module in model.modules():
            if getattr(getattr(module, "config", None), "use_cache", False):
                module.config.use_cache = False  # keys and values are for who writes
        self._trunk = Trunk(model, wants)

    @torch.no_grad()
    def spoken(self, batch: Batch) -> Spoken:
        """What it answers at the tokens that are answered; ask this before `output`."""
        assert self.answers is not None
        return spoken(self._trunk, self._head, self.answers, self._read(self.answers.view, batch))

    @torch.no_grad()
    def output(self, view: str, batch: Batch) -> Any:
        """Its backbone's ModelOutput."""
        return backbone_output(self._trunk, view, self._read(view, batch))

    def forget(self) -> None:
        """The batch is done with."""
        self._trunk.reset()

    def _read(self, view: str, batch: Batch) -> Batch:
        inputs = {name: tensor for name, tensor in batch.views[view].items() if name in self._known}
        self.model.to(inputs["input_ids"].device)
        return dataclasses.replace(batch, views={view: inputs}, kept=None)


def backbone_output(trunk: Any, view: str, batch: Batch) -> Any:
    """The backbone's ModelOutput. One that is no part apart from its head (T5's language model) must say its words
    first: asked for words alone it gives states as well, but not the other way round."""
    if trunk.backbone is trunk.model and WANTED in batch.views[view]:
        trunk.logits(view, batch)
    return trunk.output(view, batch)


def real_tokens(view: dict[str, torch.Tensor], answers: TokenAnswers | None, batch: Batch) -> list[torch.Tensor]:
    """Which tokens of each stack are no padding: (R, T), of an encoder-decoder two. A decoder's are those after which
    a word is learnt."""
    mask_RT = view.get("attention_mask")
    mask_RT = torch.ones_like(view["input_ids"]) if mask_RT is None else mask_RT
    if "decoder_input_ids" in view and answers is not None:
        return [mask_RT, answers.places(batch)]
    return [mask_RT]

"""Texts that a decoder writes before it is trained, and the loss that keeps it able to write them.

Legend: N texts, L tokens of each, B rows, T tokens, D width, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from llmtune.core.protocols import Views
from llmtune.core.seeds import fold
from llmtune.core.types import Batch, Loss

if TYPE_CHECKING:
    from llmtune.model.language_head import LanguageHead

TOGETHER = 32
"""texts that are written at a time"""


class GeneratedTexts:
    """`ids_NL` and `lengths_N`, written when they are first asked for, from one token each; kept in checkpoints."""

    def __init__(
        self, network: Any, head: LanguageHead, tokenizer: Any, *, seed: int, temperature: float,
        starts: Sequence[int], tokens: int, console: Any,
    ):  # fmt: skip
        self.network, self.head, self.tokenizer, self.console = network, head, tokenizer, console
        self.seed, self.temperature, self.starts, self.tokens = seed, temperature, starts, tokens
        self.ids_NL: torch.Tensor | None = None

    def rows(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Model inputs of these texts, padded on the right."""
        if self.ids_NL is None:
            self.write()
        assert self.ids_NL is not None
        ids_BT = self.ids_NL[torch.tensor(numbers)]
        real_BT = torch.arange(ids_BT.shape[1]) < self._lengths(ids_BT)[:, None]
        width = int(real_BT.sum(dim=1).max())
        view = {"input_ids": ids_BT[:, :width]}
        return view if bool(real_BT[:, :width].all()) else {**view, "attention_mask": real_BT[:, :width].long()}

    def _lengths(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Tokens of each text up to the end token that it wrote, which belongs to it."""
        ends_BT = ids_BT[:, 1:] == (self.tokenizer.eos_token_id if self.tokenizer.eos_token_id is not None else -1)
        return torch.where(ends_BT.any(dim=1), ends_BT.int().argmax(dim=1) + 2, ids_BT.shape[1])

    @torch.no_grad()
    def write(self) -> None:
        from llmtune.model.held import computed_in_fp32

        modes = {module: module.training for module in self.network.modules()}  # frozen ones draw no dropout
        self.network.eval()
        device = next(self.network.parameters()).device
        draw = torch.Generator(device=device).manual_seed(fold(self.seed, "replay"))
        try:
            with computed_in_fp32(self.network, self.head):
                pieces = [
                    self._written(torch.tensor(self.starts[at : at + TOGETHER], device=device), draw)
                    for at in range(0, len(self.starts), TOGETHER)
                ]
        finally:
            for module, mode in modes.items():
                module.training = mode
        self.ids_NL = torch.cat(pieces).cpu()
        shown = self.tokenizer.decode(self.ids_NL[0], skip_special_tokens=True)
        self.console.say(f"replay: the model wrote {len(self.starts)} texts of {self.tokens} tokens, such as {shown!r}")

    def _written(self, starts_B: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        ids_BT = starts_B[:, None]
        past = None
        for _ in range(self.tokens - 1):
            output = self.network.base_model(input_ids=ids_BT[:, -1:], past_key_values=past, use_cache=True)
            past = output.past_key_values
            logits_BV = self.head(output.last_hidden_state[:, -1]).float() / self.temperature
            next_B1 = torch.multinomial(logits_BV.softmax(dim=-1), 1, generator=draw)
            ids_BT = torch.cat([ids_BT, next_B1], dim=1)
        return ids_BT


class GeneratedReplay(nn.Module):
    """Next-word loss of one generated text for each row of the task, drawn by the row's seed."""

    feed = "task"

    def __init__(self, name: str, weight: Callable[[int], float], head: LanguageHead, texts: GeneratedTexts):
        super().__init__()
        self.name, self.weight = name, weight
        self.head = head
        self._texts = (texts,)  # it knows the network, which is registered elsewhere

    def prepare(self, batch: Batch) -> None:
        from llmtune.model.language_head import next_words

        texts = self._texts[0]
        view = texts.rows([fold(seed, self.name) % len(texts.starts) for seed in batch.row_seeds])
        batch.views[self.name], batch.targets[self.name] = view, next_words(view)

    def count(self, batch: Batch) -> float:
        return float((batch.targets[self.name] >= 0).sum())

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        from llmtune.model.language_head import word_loss

        return word_loss(self.head, trunk.output(self.name, batch).last_hidden_state, batch.targets[self.name])

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        ids_NL = self._texts[0].ids_NL
        return ({} if ids_NL is None else {"texts": ids_NL}), {}

    def load_state(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        self._texts[0].ids_NL = tensors.get("texts")

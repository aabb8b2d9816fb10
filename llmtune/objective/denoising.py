"""Denoising: spans of a text are taken out, and the decoder writes what they were (T5, arXiv 1910.10683, 3.1.4).

Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from llmtune.core.errors import Fault, ModelError
from llmtune.core.parts import FeedWanted, Parts, Prospect
from llmtune.core.protocols import Views
from llmtune.core.ranges import at_least, between, positive, weight
from llmtune.core.schedules import weight_schedule
from llmtune.core.seeds import generator
from llmtune.core.types import Batch, Loss
from llmtune.objective.language import refuse_idle_tokens, refuse_other_kinds

if TYPE_CHECKING:
    from llmtune.model.language_head import LanguageHead


@dataclass(frozen=True, kw_only=True)
class Denoising:
    name: str
    weight: float | str
    rows: str | None
    batch_tokens: int | None
    noise_share: float
    mean_span: float

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        positive("batch_tokens", self.batch_tokens)
        between("noise_share", self.noise_share, 0.01, 0.9)
        at_least("mean_span", self.mean_span, 1)

    def feeds(self, config: Any) -> dict[str, FeedWanted]:
        from llmtune.data.plain_text import PlainText, plain_rows

        if self.rows is None:
            return {}
        return {self.name: FeedWanted(
            data=plain_rows(config, self.rows), reader=PlainText(), batch_tokens=self.batch_tokens,
            where=f"objective.{self.name}.rows",
        )}  # fmt: skip

    def check(self, prospect: Prospect) -> None:
        where = f"objective.{self.name}"
        refuse_other_kinds(where, prospect, "sequence")
        refuse_idle_tokens(self.name, self.rows, self.batch_tokens)
        network = prospect.network
        if network.base_model is network:
            given = f"{type(network).__name__} has no backbone apart from its head"
            raise ModelError(Fault(where, given, "tasks whose model has one", f"leave {self.name} out"))
        if not sentinels_of(prospect.tokenizer):
            model = f"{prospect.config.model.name} ({prospect.model_config.model_type})"
            given = f"the tokenizer of {model} has no <extra_id_0>"
            allowed = "a model of T5's kind: such tokens stand for what was taken out"
            raise ModelError(Fault(where, given, allowed, "type model=tiny_t5"))

    def build(self, parts: Parts) -> DenoisingLoss:
        from llmtune.model.language_head import load_head

        head = load_head(parts.config.model, parts.network, seed=parts.config.seed)
        spans = Spans(parts.token_table, parts.network.config, self.noise_share, self.mean_span)
        feed = "task" if self.rows is None else self.name
        return DenoisingLoss(self.name, feed, weight_schedule(self.weight, parts.num_steps), head, spans)


def sentinels_of(tokenizer: Any) -> list[int]:
    """Ids of <extra_id_0>, <extra_id_1> and so on."""
    vocabulary = tokenizer.get_vocab()
    names = itertools.takewhile(vocabulary.__contains__, (f"<extra_id_{i}>" for i in itertools.count()))
    return [vocabulary[name] for name in names]


class Spans:
    """Takes spans out of rows: what the encoder reads, and what the decoder has to write."""

    def __init__(self, tokenizer: Any, config: Any, noise_share: float, mean_span: float):
        self.noise_share, self.mean_span = noise_share, mean_span
        self.sentinels = sentinels_of(tokenizer)
        self.special = np.array([i for i in tokenizer.all_special_ids if i not in self.sentinels])
        self.end_id, self.pad_id = config.eos_token_id, config.pad_token_id
        start = config.decoder_start_token_id
        self.start_id = config.pad_token_id if start is None else start

    def cut(self, ids: np.ndarray, rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """A row's tokens with each span replaced by a sentinel, and the spans, each behind its sentinel."""
        text = ids[~np.isin(ids, self.special)]
        num_noise = min(max(1, round(self.noise_share * len(text))), len(text) - 1)
        if num_noise < 1:
            return [*text.tolist(), self.end_id], [self.end_id]
        num_spans = min(max(1, round(num_noise / self.mean_span)), len(text) - num_noise, len(self.sentinels))
        noise, kept = _parts(num_noise, num_spans, rng), _parts(len(text) - num_noise, num_spans, rng)
        shown: list[int] = []
        wanted: list[int] = []
        at = 0
        for sentinel, keep, take in zip(self.sentinels, kept, noise):
            shown += [*text[at : at + keep].tolist(), sentinel]
            wanted += [sentinel, *text[at + keep : at + keep + take].tolist()]
            at += keep + take
        return [*shown, self.end_id], [*wanted, self.end_id]


def _parts(total: int, count: int, rng: np.random.Generator) -> list[int]:
    """`total` as a sum of `count` numbers from 1 on, all such sums alike probable."""
    cuts = np.sort(rng.choice(total - 1, size=count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]])).tolist()


class DenoisingLoss(nn.Module):
    """Cross-entropy of what was taken out, sentinels and end included, per token."""

    def __init__(self, name: str, feed: str, weight: Callable[[int], float], head: LanguageHead, spans: Spans):
        super().__init__()
        self.name, self.feed, self.weight = name, feed, weight
        self.head, self.spans = head, spans

    def prepare(self, batch: Batch) -> None:
        from llmtune.model.language_head import IGNORED

        clean, spans = batch.views["clean"], self.spans
        mask_BT = clean.get("attention_mask")
        cuts = []
        for row, seed in enumerate(batch.row_seeds):
            ids = clean["input_ids"][row].numpy()
            ids = ids if mask_BT is None else ids[mask_BT[row].numpy() != 0]
            cuts.append(spans.cut(ids, generator(seed, self.name)))
        shown_BT = _padded([shown for shown, _ in cuts], spans.pad_id)
        targets_BT = _padded([wanted for _, wanted in cuts], IGNORED)
        given_BT = _padded([[spans.start_id, *wanted[:-1]] for _, wanted in cuts], spans.pad_id)
        lengths_B1 = torch.tensor([[len(shown)] for shown, _ in cuts])
        batch.views[self.name] = {
            "input_ids": shown_BT, "attention_mask": (torch.arange(shown_BT.shape[1]) < lengths_B1).long(),
            "decoder_input_ids": given_BT,
        }  # fmt: skip
        batch.targets[self.name] = targets_BT

    def count(self, batch: Batch) -> float:
        return float((batch.targets[self.name] >= 0).sum())

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        from llmtune.model.language_head import word_loss

        return word_loss(self.head, trunk.output(self.name, batch).last_hidden_state, batch.targets[self.name])


def _padded(rows: list[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])

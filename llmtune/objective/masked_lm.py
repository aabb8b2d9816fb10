"""Masked-language modelling: some words are hidden and have to be found again (BERT, arXiv 1810.04805).

Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import FeedWanted, Parts, Prospect
from llmtune.core.protocols import Views
from llmtune.core.ranges import between, one_of, positive
from llmtune.core.types import Batch, Loss
from llmtune.objective.language import check_weight, head_of, own_rows, refuse_idle_tokens, refuse_other_kinds, share_of

if TYPE_CHECKING:
    from llmtune.data.text.masking import Masker
    from llmtune.model.language_head import LanguageHead


@dataclass(frozen=True, kw_only=True)
class MaskedLm:
    name: str
    weight: float | str
    rows: str | None
    batch_tokens: int | None
    mask_share: float
    unit: str
    segmenter: str | None
    keep_share: float
    random_share: float

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)
        positive("batch_tokens", self.batch_tokens)
        between("mask_share", self.mask_share, 0.01, 0.9)
        one_of("unit", self.unit, ("token", "word", "span"))
        if self.segmenter is not None:
            one_of("segmenter", self.segmenter, ("jieba",))
        between("keep_share", self.keep_share, 0, 1)
        between("random_share", self.random_share, 0, 1 - self.keep_share)

    def feeds(self, config: Any) -> dict[str, FeedWanted]:
        return own_rows(config, self.name, self.rows, self.batch_tokens)

    def check(self, prospect: Prospect) -> None:
        refuse_other_kinds(f"objective.{self.name}", prospect, "masked")
        refuse_idle_tokens(self.name, self.rows, self.batch_tokens)
        if self.segmenter is not None and importlib.util.find_spec(self.segmenter) is None:
            raise ConfigError(
                Fault(f"objective.{self.name}.segmenter", f"{self.segmenter} is not installed", "",
                      f"pip install {self.segmenter}, or objective.{self.name}.segmenter=null")
            )  # fmt: skip

    def build(self, parts: Parts) -> MaskedLmLoss:
        from llmtune.data.text.masking import Masker
        masker = Masker(
            parts.token_table, mask_share=self.mask_share, unit=self.unit, keep_share=self.keep_share,
            random_share=self.random_share, segmenter=_segmenter(self.segmenter),
        )  # fmt: skip
        head = head_of(self.name, parts)
        feed = "task" if self.rows is None else self.name
        return MaskedLmLoss(self.name, feed, share_of(self.weight, parts), head, masker)


class MaskedLmLoss(nn.Module):
    """Cross-entropy of the hidden words, per hidden word."""

    def __init__(self, name: str, feed: str, weight: Callable[[int], float], head: LanguageHead, masker: Masker):
        super().__init__()
        self.name, self.feed, self.weight = name, feed, weight
        self.head = head
        self.masker = masker
        self.view = f"masked for {name}"

    def prepare(self, batch: Batch) -> None:
        """Adds the view with hidden words, and as targets_BT what they were."""
        clean = batch.views["clean"]
        ids_BT, targets_BT = self.masker.mask(clean["input_ids"], clean.get("attention_mask"), batch.row_seeds)
        batch.views[self.view] = {**clean, "input_ids": ids_BT}
        batch.targets[self.name] = targets_BT

    def count(self, batch: Batch) -> float:
        return float((batch.targets[self.name] >= 0).sum())

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        from llmtune.model.language_head import word_loss

        hidden_BTD = trunk.output(self.view, batch).last_hidden_state
        return word_loss(self.head, hidden_BTD, batch.targets[self.name])


def _segmenter(name: str | None) -> Any:
    if name is None:
        return None
    import jieba

    return jieba.lcut

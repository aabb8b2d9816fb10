"""What tasks that write have in common: their words are taught by one part, and their answers written by another.

Legend: N tokens that are to be written, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import Fault, ModelError
from llmtune.core.types import Batch, Loss
from llmtune.task.word_targets import WordTargets
from llmtune.task.writing import FIELDS, Writing

if TYPE_CHECKING:
    import numpy as np


class WritingTask:
    """The part of core.protocols.Task that is the same for all of them."""

    labels = None
    num_outputs = 0
    changeable: tuple[str, ...] = FIELDS
    table_names: Sequence[str]
    words: WordTargets
    writing: Writing

    def collate_targets(self, targets: Sequence[Any] | None, cuts: Any = None) -> dict[str, Any]:
        return self.words.collate_targets(targets, cuts)

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        self.words.set_loss(options, targets)

    def count(self, targets: Mapping[str, Any], share_B: Any = None) -> float:
        return self.words.count(targets, share_B)

    def loss(self, logits_NV: Any, targets: Mapping[str, Any], share_B: Any = None) -> Loss:
        return self.words.loss(logits_NV, targets, share_B)

    def loss_in_pieces(self, trunk: Any, batch: Batch) -> Loss | None:
        return self.words.loss_in_pieces(trunk, batch)

    def divergence(self, first_NV: Any, second_NV: Any, targets: Mapping[str, Any]) -> Loss:
        return self.words.divergence(first_NV, second_NV, targets)

    def examine(self, model: Any, batch: Batch) -> tuple[list[np.ndarray], Loss]:
        return self.writing.examine(model, batch)

    def generated_rows(self, num_rows: int, thorough: bool) -> Sequence[int]:
        return self.writing.generated_rows(num_rows, thorough)

    def generate(self, model: Any, batch: Batch) -> list[np.ndarray]:
        return self.writing.generate(model, batch)

    def room(self, max_tokens: int) -> int:
        return self.writing.room(max_tokens)

    def table(self, decoded: Mapping[str, Any]) -> list[Any]:
        return [decoded[name] for name in self.table_names]


def refuse_other_than_decoders(config: Any, task: str, fits: str) -> None:
    """Raises ModelError for a transformers config of a model that does not go on from a text."""
    from llmtune.model.language_head import language_kind

    if language_kind(config) != "causal":
        raise ModelError(
            Fault("model", f"{config.model_type} models don't go on from a text", f"task={task} trains {fits}",
                  "type model=tiny_gpt2, or model=pretrained model.path=DIR")
        )  # fmt: skip

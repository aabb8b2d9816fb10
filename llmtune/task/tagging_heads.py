"""Three heads for tagging as a task sees them: model, loss, and what is kept of the logits.

Legend: B rows, R sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from llmtune.core.types import Batch
from llmtune.data.tagging.learnt import Learnt
from llmtune.task import tagging_losses as losses
from llmtune.task.tagging_options import loss_options, refuse_options, word_weights
from llmtune.task.tagging_outputs import chain_outputs, span_outputs, tag_outputs

Targets = Mapping[str, torch.Tensor]


class LinearHead:
    """A tag for each word by itself, by transformers' own head."""

    spans = False

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def shared_words(self, longest: int) -> int:
        """How many words windows should share, where the longest entity has so many."""
        return longest

    def settle(self, options: Any, targets: Sequence[Any], names: Sequence[str]) -> list[str]:
        """Take the `train` settings; what the user should know. Raises ConfigError."""
        self.options = loss_options(options, targets, names)
        return []

    def model_class(self) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    def config_values(self, learnt: Learnt) -> dict[str, Any]:
        return {}

    def collate(self, targets: Sequence[Any], cuts: list[list[int]] | None) -> dict[str, torch.Tensor]:
        return losses.tag_targets(targets, cuts)

    def words(self, targets: Targets) -> torch.Tensor:
        """What a sequence counts: its words, each by its tag's weight, (R,)."""
        return word_weights(targets["label"], self.options)

    def loss(self, logits: torch.Tensor, targets: Targets, share_B: torch.Tensor | None) -> torch.Tensor:
        weights_C = self.options.get("weights_C")
        moved = {} if weights_C is None else {"weights_C": weights_C.to(logits.device)}
        return losses.tag_losses(logits, targets, share_B, **{**self.options, **moved})

    def divergence(self, first: torch.Tensor, second: torch.Tensor, targets: Targets) -> torch.Tensor:
        return losses.tag_divergence(first, second, targets).sum()

    def outputs(self, logits: torch.Tensor, batch: Batch) -> list[np.ndarray]:
        return tag_outputs(logits, batch)

    def state(self) -> dict[str, Any]:
        """What a trained model needs to know of it."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        pass


class CrfHead(LinearHead):
    """Tags as a chain: a score for each step from tag to tag, none that the scheme does not allow."""

    def settle(self, options: Any, targets: Sequence[Any], names: Sequence[str]) -> list[str]:
        refuse_options(options, "crf")
        return []

    def model_class(self) -> Any:
        from llmtune.model.tagger import CrfTagger

        return CrfTagger

    def config_values(self, learnt: Learnt) -> dict[str, Any]:
        return {"tag_scheme": learnt.learn_as}

    def loss(self, logits: torch.Tensor, targets: Targets, share_B: torch.Tensor | None) -> torch.Tensor:
        losses_B = losses.chain_losses(logits, targets)
        return (losses_B if share_B is None else losses_B * share_B).sum()

    def divergence(self, first: torch.Tensor, second: torch.Tensor, targets: Targets) -> torch.Tensor:
        return losses.chain_divergence(first, second, targets).sum()

    def outputs(self, logits: torch.Tensor, batch: Batch) -> list[np.ndarray]:
        return chain_outputs(logits, batch)


class SpanHead(LinearHead):
    """Spans up to the width of train's widest entity, each scored by its two ends."""

    spans = True

    def __init__(self, widest: int) -> None:
        super().__init__()
        self.widest = widest
        self.width = 1

    def shared_words(self, longest: int) -> int:
        # a span is read in the window of its first word, which has half of the overlap behind it
        return 2 * min(longest, self.widest)

    def settle(self, options: Any, targets: Sequence[Any], names: Sequence[str]) -> list[str]:
        refuse_options(options, "span")
        self.width, wider, total = losses.span_width(targets, self.widest)
        if not wider:
            return [f"spans of up to {self.width} tokens are scored, the widest of train"]
        return [
            f"spans of up to {self.width} tokens are scored (task.widest_span): {wider} of {total} entities of train "
            "are wider, or cut by the windows of data.max_tokens, and can't be found"
        ]

    def model_class(self) -> Any:
        from llmtune.model.span_head import SpanTagger

        return SpanTagger

    def config_values(self, learnt: Learnt) -> dict[str, Any]:
        return {"span_width": self.width}

    def collate(self, targets: Sequence[Any], cuts: list[list[int]] | None) -> dict[str, torch.Tensor]:
        return losses.span_targets(targets, cuts, self.width)

    def words(self, targets: Targets) -> torch.Tensor:
        return targets["words"]

    def loss(self, logits: torch.Tensor, targets: Targets, share_B: torch.Tensor | None) -> torch.Tensor:
        return losses.span_losses(logits, targets, share_B)

    def divergence(self, first: torch.Tensor, second: torch.Tensor, targets: Targets) -> torch.Tensor:
        return losses.span_divergence(first, second, targets).sum()

    def outputs(self, logits: torch.Tensor, batch: Batch) -> list[np.ndarray]:
        return span_outputs(logits, batch)

    def state(self) -> dict[str, Any]:
        return {"width": self.width}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.width = state["width"]

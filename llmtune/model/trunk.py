"""The trunk: runs the backbone once per view and micro-batch and shares its output among objectives.

The supervised head is the Hugging Face task model itself: its backbone's `forward` answers from the store here,
so that `model/` can be written by `save_pretrained` and opens without llmtune.

Legend: B rows, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from llmtune.core.types import Batch


class Trunk:
    """Answers `output(view)` and `logits(view)` of one micro-batch, each view computed once."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.backbone: nn.Module = model.base_model  # type: ignore[assignment]
        self._compute = self.backbone.forward
        self._outputs: dict[str, Any] = {}
        self._view: str | None = None
        self.wants_hidden_states = False
        """set by an objective that reads `output(view).hidden_states`"""
        self.backbone.forward = self._answer

    def compile(self) -> None:
        """Compile the backbone's computation, not the store around it; names of parameters stay as they are."""
        self._compute = torch.compile(self._compute, dynamic=True)

    def reset(self) -> None:
        """Forget the last micro-batch."""
        self._outputs.clear()

    def logits(self, view: str, batch: Batch) -> torch.Tensor:
        """The task head's logits_BC of a view."""
        self._view = view
        try:
            return self.model(**batch.views[view]).logits
        finally:
            self._view = None

    def output(self, view: str, batch: Batch) -> Any:
        """The backbone's ModelOutput of a view, from the store if any head already asked for it."""
        if view not in self._outputs:
            self._view = view
            try:
                self.backbone(**batch.views[view])
            finally:
                self._view = None
        return self._outputs[view]

    def _answer(self, *args: Any, **kwargs: Any) -> Any:
        if self._view is None:  # somebody else's call: evaluation, export
            return self._compute(*args, **kwargs)
        if self._view not in self._outputs:
            if self.wants_hidden_states:
                kwargs["output_hidden_states"] = True
            self._outputs[self._view] = self._compute(*args, **kwargs)
        return self._outputs[self._view]

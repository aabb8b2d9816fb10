"""The trunk: runs the backbone once per view and micro-batch and shares its output among objectives.

The supervised head is the Hugging Face task model itself: its backbone's `forward` answers from the store here,
so that `model/` can be written by `save_pretrained` and opens without llmtune.

Legend: B rows, T tokens, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from llmtune.core.errors import Fault, ModelError
from llmtune.core.seeds import fold
from llmtune.core.types import Batch
from llmtune.data.batches.feed import WANTED
from llmtune.model.outputs import logits_of
from llmtune.model.packed import Packed

Change = Callable[[torch.Tensor], torch.Tensor]


def word_tables(model: nn.Module) -> list[nn.Module]:
    """The modules that look word embeddings up: `get_input_embeddings()`, and all that share its table.

    In encoder-decoders such as T5 and BART the former is only where the weights lie; encoder and decoder look up
    in modules of their own.
    """
    words: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    encoder = model.get_encoder() if model.config.is_encoder_decoder else None  # type: ignore[operator,union-attr]
    tables = [words] if encoder is None else [words, encoder.get_input_embeddings()]
    shared = [
        module for module in model.modules()
        if isinstance(module, nn.Embedding) and any(module.weight is table.weight for table in tables)
    ]  # fmt: skip
    return list(dict.fromkeys([*tables, *shared]))


class Trunk:
    """Answers what objectives ask of one micro-batch, each view computed once."""

    def __init__(self, model: nn.Module, wants: Sequence[str] = ()):
        self.model = model
        self.backbone: nn.Module = model.base_model  # type: ignore[assignment]
        self.draw: int | None = None
        """a function of (seed, step, micro, rank), from which the dropout of each view is drawn; None: as it comes"""
        self._asked = {f"output_{word}": True for word in wants}
        self._forward = self._compute = self.backbone.forward
        self._outputs: dict[str, Any] = {}
        self._logits: dict[str, torch.Tensor] = {}
        self._view: str | None = None
        self.packed: Packed | None = None
        """how rows of training lie end to end, if they shall"""
        self._packing: Packed | None = None
        """the same, for the view at hand"""
        self._kept: Any = None
        """where the rows of the view at hand are in the prefix cache"""
        self.backbone.forward = self._answer

    def compile(self) -> None:
        """Compile the backbone's computation, not the store around it; names of parameters stay as they are."""
        self._compute = torch.compile(self._compute, dynamic=True)

    def reset(self) -> None:
        """Forget the last micro-batch."""
        self._outputs.clear()
        self._logits.clear()

    def logits(self, view: str, batch: Batch) -> torch.Tensor:
        """The task head's logits_BC of a view: the same tensor for all objectives that ask."""
        if view not in self._logits:
            self._logits[view] = logits_of(self.through(self.model, view, batch))
        return self._logits[view]

    def through(self, head_model: nn.Module, view: str, batch: Batch) -> Any:
        """The output of a Hugging Face head model, whose backbone module is this trunk's, for a view."""
        with self._showing(view, batch):
            return head_model(**batch.views[view])

    def output(self, view: str, batch: Batch) -> Any:
        """The backbone's ModelOutput of a view, from the store if any head already asked for it."""
        if view not in self._outputs:
            with self._showing(view, batch):  # where words are wanted is for the head to know
                self.backbone(**{name: values for name, values in batch.views[view].items() if name != WANTED})
        return self._outputs[view]

    def again(self, view: str, batch: Batch, name: str = "again") -> torch.Tensor:
        """logits_BC of a fresh run of the task model on a view, with dropout of its own; never stored."""
        self._seed(f"{view}/{name}")
        with self._reading(view, batch, self.packed):
            return logits_of(self.model(**batch.views[view]))

    def evaluated(self, batch: Batch) -> torch.Tensor:
        """logits_BC of the clean view, run afresh: what an evaluation asks for."""
        with self._reading("clean", batch):
            return logits_of(self.model(**batch.views["clean"]))

    def perturbed(self, view: str, batch: Batch, change: Change, name: str = "perturbed") -> torch.Tensor:
        """`again`, with `change` applied to the word embeddings embedded_BTD; the whole backbone is run.

        An encoder-decoder looks its decoder's words up in the same table; only the first look-up, the encoder's, is
        changed.

        name: where dropout derives from; "": that of the view itself.

        Raises:
            ModelError: the model looks no words up where this could see it, so nothing would be changed.
        """
        turns = [change]

        def hook(module: nn.Module, args: Any, embedded: torch.Tensor) -> torch.Tensor | None:
            return turns.pop()(embedded) if turns else None

        handles = [table.register_forward_hook(hook) for table in word_tables(self.model)]
        try:
            self._seed(f"{view}/{name}" if name else view)
            with self.hooked():
                logits = logits_of(self.model(**batch.views[view]))
        finally:
            for handle in handles:
                handle.remove()
        if turns:
            raise ModelError(
                Fault("objective", f"changes word embeddings, which {type(self.model).__name__} looks up nowhere that "
                      "it could be seen", "objectives that leave them alone, such as r_drop or mixout")
            )  # fmt: skip
        return logits

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """What is run within goes through the backbone as it is: compiled code does not see hooks set after it."""
        compute, self._compute = self._compute, self._forward
        try:
            yield
        finally:
            self._compute = compute

    @contextmanager
    def _showing(self, view: str, batch: Batch) -> Iterator[None]:
        """The backbone is asked for this view, and its output is stored."""
        self._view = view
        try:
            with self._reading(view, batch, self.packed):
                yield
        finally:
            self._view = None

    @contextmanager
    def _reading(self, view: str, batch: Batch, packing: Packed | None = None) -> Iterator[None]:
        """The backbone is asked for this view: what the prefix cache has of its rows need not be computed."""
        self._kept = batch.kept if view == "clean" else None
        self._packing = packing
        try:
            yield
        finally:
            self._kept = self._packing = None

    def _seed(self, view: str) -> None:
        """Dropout is a function of where it is drawn, so a resumed step, or a second pass, draws the same."""
        if self.draw is not None:
            torch.manual_seed(fold(self.draw, view))

    def _answer(self, *args: Any, **kwargs: Any) -> Any:
        if self._view is None:  # evaluation, export, or a fresh run
            return self._run(*args, **kwargs)
        if self._view not in self._outputs:
            self._seed(self._view)
            self._outputs[self._view] = self._run(*args, **{**kwargs, **self._asked})
        return self._outputs[self._view]

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if self._packing is not None:
            return self._packing.run(self._compute, args, kwargs)
        if self._kept is None:
            return self._compute(*args, **kwargs)
        with self._kept.standing_in():
            return self._compute(*args, **kwargs)

"""The frozen bottom of a backbone: what leaves its uppermost layer is recorded, or given back without running it.

Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from llmtune.model.layers import EMBEDDINGS, LayerMap
from llmtune.model.outputs import logits_of
from llmtune.model.stacks import find_stacks

Merge = Callable[[torch.Tensor], torch.Tensor]


def frozen_depth(layers: LayerMap, trainable: Collection[str], stack: int) -> int:
    """Layers of the lower stack (`stack` of them) beneath the first place where anything trains; 0: embeddings train.

    The decoder of an encoder-decoder reads more than the states of the layer below, so depth ends with the encoder.
    """
    trained = {layers.places[name] for name in trainable}
    if EMBEDDINGS in trained:
        return 0
    return next((depth for depth in range(stack) if f"layer {depth}" in trained), stack)


def lower_stack(backbone: nn.Module) -> list[nn.Module]:
    """The layers that the embeddings go through first, from the bottom up; empty where they are not known for sure, or
    where a layer is not one module (XLM)."""
    found = find_stacks(backbone)
    layers = found.stacks[0].layers if found.stacks and not found.unsure else ()
    return [backbone.get_submodule(paths[0]) for paths in layers] if all(len(paths) == 1 for paths in layers) else []


class Prefix:
    """Embeddings and the layers under `depth` of a backbone whose upper layers need but hidden states of them."""

    def __init__(self, model: nn.Module, depth: int, probe: dict[str, torch.Tensor]):
        """`probe`: inputs of some rows of different lengths, on which it is proven that nothing else is needed.

        Raises:
            ValueError: something else is, with what.
        """
        self.backbone: nn.Module = model.base_model  # type: ignore[assignment]
        self.layers = lower_stack(self.backbone)[:depth]
        self.embeddings = [
            module for name, module in self.backbone.named_children()
            if "embed" in name and not type(module).__module__.startswith("torch.")
        ]  # fmt: skip
        self.tuple_size = 0
        """entries of what a layer returns; 0: it returns the bare tensor"""
        self.time_first = False
        """XLNet's layers see (T, B, D)"""
        self.device = probe["input_ids"].device
        with _evaluating(model), torch.enable_grad():
            self._probe(model, probe)

    @contextmanager
    def recording(self, merge: Merge) -> Iterator[None]:
        """Run as ever; the prefix's hidden states_BTD go through `merge`."""

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            return self._answer(merge(self._hidden(output)))

        handle = self.layers[-1].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def passing(self, hidden_BTD: torch.Tensor) -> Iterator[None]:
        """Do not run the prefix: hidden_BTD is what leaves it."""
        answer = self._answer(hidden_BTD)
        for module in self.layers:
            module.__dict__["forward"] = lambda *args, **kwargs: answer
        for module in self.embeddings:
            module.__dict__["forward"] = lambda *args, **kwargs: hidden_BTD
        try:
            yield
        finally:
            for module in [*self.layers, *self.embeddings]:
                del module.__dict__["forward"]

    def _hidden(self, output: Any) -> torch.Tensor:
        hidden = output[0] if self.tuple_size else output
        return hidden.transpose(0, 1) if self.time_first else hidden

    def _answer(self, hidden_BTD: torch.Tensor) -> Any:
        hidden = hidden_BTD.transpose(0, 1) if self.time_first else hidden_BTD
        return (hidden, *[None] * (self.tuple_size - 1)) if self.tuple_size else hidden

    # ---- the probe ----

    def _probe(self, model: nn.Module, view: dict[str, torch.Tensor]) -> None:
        """Learn what layers return; prove that the model answers the same without its prefix, to the bit."""
        seen: dict[nn.Module, Any] = {}

        def look(module: nn.Module, args: Any, output: Any) -> None:
            seen[module] = output

        watched = [*self.layers[-1:], *self.embeddings]
        handles = [module.register_forward_hook(look) for module in watched]
        try:
            expected = logits_of(model(**view)).detach()
        finally:
            for handle in handles:
                handle.remove()
        hidden_BTD = self._understand(seen[self.layers[-1]], view["input_ids"].shape)
        if hidden_BTD.requires_grad:
            raise ValueError("its lower layers use something that trains")
        self.embeddings = [module for module in self.embeddings if _alike(seen.get(module), hidden_BTD)]
        if "attention_mask" in view:  # what stands where rows are padded must not matter
            hidden_BTD = hidden_BTD * view["attention_mask"][..., None].to(hidden_BTD.dtype)
        with self.passing(hidden_BTD):
            found = logits_of(model(**view)).detach()
        if not torch.equal(found, expected):
            apart = float((found - expected).abs().max())
            raise ValueError(f"its upper layers need more of the lower ones than hidden states: logits {apart:.1g} off")
        self.width, self.dtype = hidden_BTD.shape[-1], hidden_BTD.dtype

    def _understand(self, output: Any, shape: torch.Size) -> torch.Tensor:
        """Which entry of a layer's output is hidden states, and which axis is which: hidden_BTD."""
        if isinstance(output, tuple):
            self.tuple_size = len(output)
            if any(rest is not None for rest in output[1:]):
                raise ValueError("its layers hand on more than hidden states")
        hidden = output[0] if isinstance(output, tuple) else output
        self.time_first = hidden.shape[:2] == shape[::-1]
        if hidden.dim() != 3 or (hidden.shape[:2] != shape and not self.time_first):
            raise ValueError(f"its layers see rows of {tuple(shape)} tokens as {tuple(hidden.shape)}")
        return self._hidden(output)


def _alike(output: Any, hidden_BTD: torch.Tensor) -> bool:
    return (
        isinstance(output, torch.Tensor) and output.shape == hidden_BTD.shape and output.dtype == hidden_BTD.dtype
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode

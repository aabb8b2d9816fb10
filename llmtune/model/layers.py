"""LayerMap: for each parameter its place in the network and its kind; the only file that knows model families."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from torch import nn

HEAD = "head"
EMBEDDINGS = "embeddings"
FINAL = "final"

ON_TOP = re.compile(r"(^|\.)pooler\.")
"""modules inside the backbone that serve as the head's first layer"""
BELOW = re.compile(r"embed|(^|\.)w[tp]e\.|(^|\.)mask_emb|(^|\.)shared\.|(^|\.)encoder\.LayerNorm\.")
"""embedding tables and what is shared by all layers (DeBERTa's relative positions and their norm)"""


@dataclass(frozen=True)
class LayerMap:
    """Where each parameter stands. A tied parameter appears once, at its first place.

    Places from the bottom: `embeddings`, `layer 0` ... `layer n-1`, `final`, `head`. An encoder-decoder counts
    its encoder's layers first.
    """

    places: dict[str, str]
    """parameter name -> place"""
    kinds: dict[str, str]
    """parameter name -> weight | bias | norm"""
    num_layers: int

    @property
    def order(self) -> list[str]:
        """All places from the bottom to the top."""
        return [EMBEDDINGS, *(f"layer {i}" for i in range(self.num_layers)), FINAL, HEAD]

    def depth(self, name: str) -> int:
        """Height of a parameter: 0 for embeddings, num_layers + 2 for the head."""
        return self.order.index(self.places[name])

    def at(self, *places: str) -> frozenset[str]:
        """Names of the parameters at `places`."""
        return frozenset(name for name, place in self.places.items() if place in places)

    @classmethod
    def of(cls, model: nn.Module, base_prefix: str) -> LayerMap:
        """Read the map off a network whose Hugging Face backbone is the submodule `base_prefix`."""
        stacks = _layer_stacks(model.get_submodule(base_prefix))
        norms = {name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()}
        places, kinds = {}, {}
        for name, parameter in model.named_parameters():
            places[name] = _place(name, base_prefix, stacks)
            owner = name.rpartition(".")[0]
            is_bias = name.endswith("bias") or parameter.ndim < 2
            kinds[name] = "norm" if owner in norms else "bias" if is_bias else "weight"
        return cls(places, kinds, sum(stacks.values()))


def _layer_stacks(base: nn.Module) -> dict[str, int]:
    """Path -> length of the backbone's stacks of layers: the outermost lists of modules of one class."""
    stacks: dict[str, int] = {}
    for path, module in base.named_modules():
        nested = any(path.startswith(stack + ".") for stack in stacks)
        if isinstance(module, nn.ModuleList) and len(module) and not nested and len(Counter(map(type, module))) == 1:
            stacks[path] = len(module)
    return stacks


def _place(name: str, base_prefix: str, stacks: dict[str, int]) -> str:
    if not name.startswith(base_prefix + "."):
        return HEAD
    inner = name[len(base_prefix) + 1 :]
    below = 0
    for path, length in stacks.items():
        match = re.match(rf"{re.escape(path)}\.(\d+)\.", inner)
        if match:
            return f"layer {below + int(match[1])}"
        below += length
    if ON_TOP.search(inner):
        return HEAD
    return EMBEDDINGS if BELOW.search(inner) else FINAL

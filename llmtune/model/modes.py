"""Which modules draw dropout while some places are frozen, and whether anything draws any."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from torch import nn

from llmtune.model.layers import EMBEDDINGS, LayerMap

DROPS = re.compile(r"dropout|_pdrop$")
"""numbers of a module by which its `forward` drops without a module for it"""


def set_modes(network: nn.Module, layers: LayerMap, trained: Collection[str]) -> None:
    """Training mode, but a module all of whose places are frozen stays in eval mode: no dropout in it.

    What lies beside the layers without a place (dropout after GPT-2's embeddings, a flag that BART's encoder
    asks for the same) goes with the embeddings.

    trained: names of the parameters that train.
    """
    network.train()
    for module, whole in _asleep(network, layers, trained):
        if whole:
            module.eval()
        else:
            module.training = False


def draws_dropout(
    network: nn.Module, layers: LayerMap, trained: Collection[str], *, within: nn.Module | None = None
) -> bool:
    """Would a training pass of `network` (of its part `within`) drop anything where these parameters train?"""
    asleep: set[nn.Module] = set()
    for module, whole in _asleep(network, layers, trained):
        asleep |= set(module.modules()) if whole else {module}
    return any(_share(module) > 0 for module in (within or network).modules() if module not in asleep)


def _asleep(network: nn.Module, layers: LayerMap, trained: Collection[str]) -> Iterator[tuple[nn.Module, bool]]:
    """Modules that are in eval mode, and whether all that is in them is too."""
    places = {layers.places[name] for name in trained}
    for path, module in network.named_modules():
        inside = {place for name, place in layers.places.items() if name.startswith(f"{path}.")}
        if path and inside and not places & inside:
            yield module, True
        elif EMBEDDINGS not in places and path in layers.beside:
            yield module, False


def _share(module: nn.Module) -> float:
    """The largest share that a module itself drops."""
    if isinstance(module, nn.Dropout):
        return float(module.p)
    numbers = (value for name, value in vars(module).items() if DROPS.search(name) and isinstance(value, float))
    return max(numbers, default=0.0)

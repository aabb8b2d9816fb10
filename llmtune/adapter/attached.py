"""Adapters that hang on the model's own modules as children and can't be folded into its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmtune.core.seeds import fold

FILE = "adapter.safetensors"


class Attached:
    """Adds a child `slot` to some modules of the backbone; names and classes of the model's own modules stay.

    A kind of its own says where the children go (`make`) and lets the forward pass see them. `seed`: of the new
    weights; None where they are of no account (shapes only, or read afterwards).
    """

    merges = False
    stands_alone = False
    slot: str

    def __init__(self, settings: Any, seed: int | None):
        self.settings = settings
        self.seed = seed

    def make(self, network: Any) -> Mapping[str, Any]:
        """Name of the module that gets a child -> the child. Raises ConfigError or ModelError: no fit."""
        raise NotImplementedError

    def wire(self, network: Any) -> None:
        """Let the forward pass go through the children, which are in their places."""

    def wrap(self, network: Any) -> Any:
        """Put the adapter in, in place, also on the meta device. Raises ConfigError or ModelError: no fit."""
        import torch

        from llmtune.adapter.new_rows import put_in

        on_meta = next(network.parameters()).is_meta
        state = torch.random.get_rng_state()
        if self.seed is not None:
            torch.manual_seed(fold(self.seed, "adapter"))
        with torch.device("meta") if on_meta else contextlib.nullcontext():
            for name, child in self.make(network).items():
                network.get_submodule(name).add_module(self.slot, child)
        self.wire(network)
        if self.seed is not None and not on_meta:
            self.start(network)
        torch.random.set_rng_state(state)
        put_in(network)
        return network

    def terms(self) -> dict[str, Any]:
        """Losses that belong to the adapter: none."""
        return {}

    def start(self, network: Any) -> None:
        """Give new weights values that depend on the model's own, where the kind has such."""

    @contextlib.contextmanager
    def plain(self, network: Any) -> Iterator[Any]:
        """The network as transformers knows it, without the adapter but with new tokens' rows; put back afterwards."""
        from llmtune.adapter.new_rows import folded_in

        owners = [module for module in network.modules() if self.slot in module._modules]
        children = [module._modules.pop(self.slot) for module in owners]
        try:
            with folded_in(network):
                yield network
        finally:
            for module, child in zip(owners, children):
                module.add_module(self.slot, child)

    def save(self, network: Any, folder: Path, base: str | None) -> None:
        """Write the adapter's weights as adapter.safetensors; the head is in the model's own file."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.contiguous().clone() for name, value in self._weights(network).items()}
        save_file(weights, folder / FILE, {"format": "pt"})

    def load(self, network: Any, folder: Path) -> None:
        """Read what `save` wrote into a network that was wrapped. Raises ValueError: names or shapes differ."""
        import torch
        from safetensors.torch import load_file

        kept, own = load_file(folder / FILE), self._weights(network)
        if kept.keys() != own.keys():
            raise ValueError(f"{FILE} is of another adapter: {', '.join(sorted(kept.keys() ^ own.keys())[:4])}")
        with torch.no_grad():
            for name, value in own.items():
                if value.shape != kept[name].shape:
                    raise ValueError(f"{FILE}: {name} is {tuple(kept[name].shape)}, not {tuple(value.shape)}")
                value.copy_(kept[name])

    def _weights(self, network: Any) -> dict[str, Any]:
        return {name: value for name, value in network.state_dict().items() if f".{self.slot}." in name}

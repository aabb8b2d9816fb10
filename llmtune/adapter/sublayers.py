"""A small network behind the last linear module of a layer's attention and feed-forward block.

Legend: B rows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from llmtune.adapter.attached import Attached
from llmtune.adapter.targets import linear_targets
from llmtune.model.projections import ATTENTION_OUT, FEED_FORWARD_OUT


class Narrow(nn.Module):
    """x + up(act(down(x))); `up` starts at zero, so that the model starts as it was."""

    def __init__(self, size: int, width: int, activation: str, dropout: float):
        super().__init__()
        self.down = nn.Linear(size, width)
        self.up = nn.Linear(width, size)
        self.activate = getattr(functional, activation)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        return hidden_BTD + self.up(self.dropout(self.activate(self.down(hidden_BTD))))


class BehindSublayers(Attached):
    """Adapters before the residual sum, behind attention and feed-forward (Houlsby) or the latter alone (Pfeiffer)."""

    slot = "adapter_bottleneck"

    def make(self, network: Any) -> Mapping[str, nn.Module]:
        settings = self.settings
        roles = (FEED_FORWARD_OUT,) if settings.after == "feed_forward" else (ATTENTION_OUT, FEED_FORWARD_OUT)
        names = linear_targets(network, settings.targets, roles)
        return {
            name: Narrow(_outputs(network.get_submodule(name)), settings.width, settings.activation, settings.dropout)
            for name in names
        }

    def wire(self, network: Any) -> None:
        for module in network.modules():
            if self.slot in module._modules:
                module.register_forward_hook(_through_bottleneck)


def _outputs(linear: nn.Module) -> int:
    return linear.nf if hasattr(linear, "nf") else linear.out_features  # type: ignore[return-value]


def _through_bottleneck(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    own = module._modules.get(BehindSublayers.slot)
    return output if own is None else own(output)

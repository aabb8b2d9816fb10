"""The golden table of parameter groups: factor and decay of each parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmtune.model.layers import LayerMap
from llmtune.model.parameter_groups import parameter_groups


class Net(nn.Module):
    """Embedding, two layers with LoRA and an IA3 vector in the first, a final norm, a head, an objective's own head."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Module()
        self.base.embed = nn.Embedding(5, 4)
        self.base.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(2))
        self.base.layers[0].lora_A = nn.Linear(4, 2, bias=False)
        self.base.layers[0].lora_B = nn.Linear(2, 4, bias=False)
        self.base.layers[0].ia3_l = nn.Parameter(torch.ones(4, 1))
        self.base.norm = nn.LayerNorm(4)
        self.classifier = nn.Linear(4, 1)
        self.own = nn.ModuleDict({"masked_lm": nn.Linear(4, 5)})


GOLDEN = {
    "base.embed.weight": (0.5**3, 0.1),
    "base.layers.0.0.weight": (0.5**2, 0.1),
    "base.layers.0.0.bias": (0.5**2, 0.0),
    "base.layers.0.1.weight": (0.5**2, 0.0),
    "base.layers.0.1.bias": (0.5**2, 0.0),
    "base.layers.0.lora_A.weight": (0.5**2, 0.1),
    "base.layers.0.lora_B.weight": (0.5**2 * 16, 0.1),
    "base.layers.0.ia3_l": (0.5**2, 0.0),
    "base.layers.1.0.weight": (0.5, 0.1),
    "base.layers.1.0.bias": (0.5, 0.0),
    "base.layers.1.1.weight": (0.5, 0.0),
    "base.layers.1.1.bias": (0.5, 0.0),
    "base.norm.weight": (0.5, 0.0),
    "base.norm.bias": (0.5, 0.0),
    "classifier.weight": (10.0, 0.1),
    "classifier.bias": (10.0, 0.0),
    "own.masked_lm.weight": (10.0, 0.1),
    "own.masked_lm.bias": (10.0, 0.0),
}


def table(network: nn.Module, **settings: float) -> dict[str, tuple[float, float]]:
    layers = LayerMap.of(network, "base")
    layers.kinds.update({name: "adapter" for name in layers.kinds if "lora" in name or "ia3" in name})
    groups = parameter_groups(network, layers, weight_decay=0.1, **settings)
    assert all(len(group["names"]) == len(group["params"]) for group in groups)
    return {name: (group["factor"], group["weight_decay"]) for group in groups for name in group["names"]}


def test_golden_table() -> None:
    found = table(Net(), layer_decay=0.5, head_lr_factor=10.0, lora_plus_ratio=16.0)
    assert found == {name: pytest.approx(pair) for name, pair in GOLDEN.items()}


def test_usual_settings_need_two_groups() -> None:
    network = Net()
    groups = parameter_groups(network, LayerMap.of(network, "base"), weight_decay=0.1)
    assert sorted((group["factor"], group["weight_decay"]) for group in groups) == [(1.0, 0.0), (1.0, 0.1)]


def test_without_decay_one_group_is_enough() -> None:
    network = Net()
    assert len(parameter_groups(network, LayerMap.of(network, "base"), weight_decay=0.0)) == 1


def test_quantized_weights_are_left_out() -> None:
    network = Net()
    network.base.layers[0][0].weight = nn.Parameter(torch.zeros(8, dtype=torch.uint8), requires_grad=False)
    assert set(GOLDEN) - set(table(network)) == {"base.layers.0.0.weight"}

"""Groups of parameters for an optimizer: layer-wise learning rates, no decay on norms and biases."""

from __future__ import annotations

from typing import Any

from torch import nn

from llmtune.model.layers import HEAD, LayerMap


def parameter_groups(
    network: nn.Module, layers: LayerMap, *, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """One group for each pair of learning-rate factor and decay, every parameter in exactly one.

    A group holds `params`, their `names`, `factor` (of the scheduled learning rate) and `weight_decay`.
    The factor is `layer_decay ** (places below the top)`: 1 for the head, layer_decay for the topmost layer, and
    so on down to the embeddings (ULMFiT's discriminative rates, arXiv 1801.06146; BEiT's form). All parameters
    are in, also frozen ones: freezing drops gradients, and the optimizer passes over them.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        factor = layer_decay ** _places_below_top(layers, name)
        decay = weight_decay if layers.kinds.get(name, "weight") == "weight" else 0.0
        group = groups.setdefault((factor, decay), {"params": [], "names": [], "factor": factor, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _places_below_top(layers: LayerMap, name: str) -> int:
    place = layers.places.get(name, HEAD)  # an objective's own module trains like the head
    steps_down = {HEAD: 0, "final": 1, "embeddings": layers.num_layers + 1}
    return steps_down[place] if place in steps_down else layers.num_layers - int(place.split()[1])

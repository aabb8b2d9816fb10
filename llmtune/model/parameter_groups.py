"""Groups of parameters for an optimizer: learning rates by place, no decay on norms, biases and vectors."""

from __future__ import annotations

from typing import Any

from torch import nn

from llmtune.model.layers import HEAD, LayerMap


def parameter_groups(
    network: nn.Module, layers: LayerMap, *, weight_decay: float, layer_decay: float = 1.0,
    head_lr_factor: float = 1.0, lora_plus_ratio: float = 1.0,
) -> list[dict[str, Any]]:  # fmt: skip
    """One group for each pair of learning-rate factor and decay, every parameter that can train in exactly one.

    A group holds `params`, their `names`, `factor` (of the scheduled learning rate) and `weight_decay`.
    The factor is a product of
    - `layer_decay ** (places below the top)`: 1 for the head, layer_decay for the topmost layer, and so on down to
      the embeddings (ULMFiT's discriminative rates, arXiv 1801.06146; BEiT's form);
    - `head_lr_factor` for the head, and for what objectives bring of their own;
    - `lora_plus_ratio` for LoRA's B matrices (LoRA+, arXiv 2402.12354).

    Frozen parameters are in too: freezing drops gradients, and the optimizer passes over them. Quantized weights,
    which have no gradient at all, are not.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.is_floating_point():
            continue
        factor = layer_decay ** _places_below_top(layers, name)
        factor *= head_lr_factor if layers.places.get(name, HEAD) == HEAD else 1.0
        factor *= lora_plus_ratio if "lora_B" in name or "lora_embedding_B" in name else 1.0
        decay = weight_decay if _decays(layers.kinds.get(name, "weight"), parameter) else 0.0
        group = groups.setdefault((factor, decay), {"params": [], "names": [], "factor": factor, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _decays(kind: str, parameter: nn.Parameter) -> bool:
    # an adapter's vectors scale or add (IA3 starts at one, DoRA at the norms): decay would undo the backbone
    return kind == "weight" or (kind == "adapter" and parameter.ndim > 1 and min(parameter.shape) > 1)


def _places_below_top(layers: LayerMap, name: str) -> int:
    place = layers.places.get(name, HEAD)  # an objective's own module trains like the head
    steps_down = {HEAD: 0, "final": 1, "embeddings": layers.num_layers + 1}
    return steps_down[place] if place in steps_down else layers.num_layers - int(place.split()[1])

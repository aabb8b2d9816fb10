"""Whether a run's rows can be packed, and how: known before any weights are loaded."""

from __future__ import annotations

from typing import Any

from llmtune.core.errors import ConfigError, Fault, ModelError
from llmtune.model.packed import Isolation

FIX = "type train.packing=false"
PLAIN = ("eager", "sdpa")


def plan_packing(config: Any, network: Any) -> Isolation | None:
    """How the rows of this task model (without weights) are kept apart; None: rows are not packed.

    Raises:
        ConfigError: train.packing=true beside what changes rows inside of the backbone.
        ModelError: no way is known that keeps rows of its family apart exactly.
    """
    if not config.train.packing:
        return None
    faults = [
        Fault("train.packing", f"true with objective={part.name}, which looks into the backbone row by row",
              "objectives that read what comes out of it", FIX)
        for part in config.objective.values() if getattr(part, "perturbs", False) or getattr(part, "wants", ())
    ]  # fmt: skip
    adapter = config.adapter
    attention = network.config._attn_implementation
    if getattr(adapter, "virtual_tokens", 0) or attention.startswith("llmtune_prefix"):
        faults.append(
            Fault("train.packing", f"true with adapter={adapter.name}, which puts tokens before each row",
                  "adapters of layers, such as lora", FIX)
        )  # fmt: skip
    elif attention not in PLAIN:
        faults.append(
            Fault("train.packing", f"true with model.attention={attention}", f"it is exact with {' and '.join(PLAIN)}",
                  "type model.attention=sdpa")
        )  # fmt: skip
    if config.hardware.compile:
        faults.append(Fault("train.packing", "true with hardware.compile=true, which was not tried", "", FIX))
    if faults:
        raise ConfigError(*faults)
    return _of_family(network, attention)


def _of_family(network: Any, attention: str) -> Isolation:
    from llmtune.model.isolation import find_isolation

    isolation = find_isolation(network.config, attention)
    if isolation is not None:
        return isolation
    family = network.config.model_type
    two = getattr(network.config, "is_encoder_decoder", False)
    why = "reads rows of two sides" if two else "rows end to end would see each other, or count positions wrongly"
    raise ModelError(
        Fault("train.packing", f"true, but {family} models can't be packed: {why}",
              "families that are exact when tried, such as bert, roberta, deberta-v2, modernbert, gpt2, llama, qwen3",
              FIX)
    )  # fmt: skip


def refuse_mixing(trunk: Any) -> None:
    """ModelError if packed rows of this very model, adapter and all, are not what they are alone."""
    import torch

    from llmtune.model.held import computed_in_fp32
    from llmtune.model.isolation import LENGTHS, MIXED, is_exact

    backbone, device = trunk.backbone, trunk.model.device
    ids_BT = torch.arange(len(LENGTHS) * max(LENGTHS), device=device).view(len(LENGTHS), -1) % 50 + 5
    modes = [module for module in backbone.modules() if module.training]
    backbone.eval()
    with computed_in_fp32(backbone):
        exact = is_exact(backbone, trunk.packed.isolation, ids_BT, exact=MIXED)
    for module in modes:
        module.training = True
    if not exact:
        raise ModelError(
            Fault("train.packing", "true, but packed rows of this model come out other than alone", "", FIX)
        )

"""What all optimizers share: checks of their common settings, parameter groups, fused kernels.

Every settings class of this shelf repeats the common fields, since a part's fields are read off its own source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts
from llmtune.core.ranges import at_least, between, one_of, positive
from llmtune.core.schedules import SHAPES

if TYPE_CHECKING:
    from llmtune.core.parts import Prospect

FUSED = ("cpu", "cuda", "mps")
"""devices for which torch has one kernel for a whole step of Adam, AdamW and SGD"""


def check_common(settings: Any) -> None:
    """Learning rate, decay, parameter groups and schedule. Raises ValueError."""
    if isinstance(settings.lr, str):
        one_of("lr", settings.lr, ("auto",))
    else:
        positive("lr", settings.lr)
    at_least("weight_decay", settings.weight_decay, 0)
    between("layer_decay", settings.layer_decay, 0.01, 1)
    positive("head_lr_factor", settings.head_lr_factor)
    positive("lora_plus_ratio", settings.lora_plus_ratio)
    one_of("schedule", settings.schedule, tuple(SHAPES))
    at_least("warmup", settings.warmup, 0)
    between("min_lr_share", settings.min_lr_share, 0, 1)
    positive("power", settings.power)
    between("decay_share", settings.decay_share, 0, 1)
    at_least("cycles", settings.cycles, 1)


def check_betas(betas: list[float]) -> None:
    """Two decay rates below 1. Raises ValueError."""
    if len(betas) != 2:
        raise ValueError(f"betas: {betas} are {len(betas)} numbers; two are needed")
    for beta in betas:
        between("betas", beta, 0, 0.999999)


def refuse_idle(settings: Any, prospect: Prospect, *others: Fault) -> None:
    """Raises ConfigError for a common setting that would do nothing on this model, and for the `others`."""
    faults = list(others)
    names = [name for name, _ in prospect.network.named_parameters()]
    if settings.lora_plus_ratio != 1 and not any("lora_B" in name or "lora_embedding_B" in name for name in names):
        faults.append(
            Fault("optimizer.lora_plus_ratio", f"{settings.lora_plus_ratio} has nothing to act on: no LoRA adapter",
                  "1.0 without one", "type adapter=lora, or optimizer.lora_plus_ratio=1")
        )  # fmt: skip
    if settings.layer_decay != 1 and prospect.layers.unsure:
        family = prospect.model_config.model_type
        faults.append(
            Fault("optimizer.layer_decay", f"{settings.layer_decay}, but which modules the layers of {family} models "
                  f"are is not known: {prospect.layers.unsure}", "1.0 for such a model", "optimizer.layer_decay=1")
        )  # fmt: skip
    if faults:
        raise ConfigError(*faults)


def groups_of(settings: Any, parts: Parts) -> list[dict[str, Any]]:
    """The parameter groups that the common settings ask for (model.parameter_groups)."""
    from llmtune.model.parameter_groups import parameter_groups

    return parameter_groups(
        parts.network, parts.layers, weight_decay=settings.weight_decay, layer_decay=settings.layer_decay,
        head_lr_factor=settings.head_lr_factor, lora_plus_ratio=settings.lora_plus_ratio,
    )  # fmt: skip


def fused_kernels(groups: list[dict[str, Any]]) -> bool | None:
    """torch's `fused`: True where it has such kernels for all parameters; None: it takes the next best by itself."""
    return all(parameter.device.type in FUSED for group in groups for parameter in group["params"]) or None

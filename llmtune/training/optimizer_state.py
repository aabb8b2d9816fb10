"""An optimizer's state by parameter name, as tensors and plain numbers: no pickle, and no order to rely on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

SEPARATOR = "|"


def optimizer_state(optimizer: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """`<parameter>|<key>` -> tensor, and the same for what is no tensor."""
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {}
    for name, parameter in _named(optimizer):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{name}{SEPARATOR}{key}"] = value
            else:
                plain[f"{name}{SEPARATOR}{key}"] = value
    return tensors, plain


def restore_optimizer(optimizer: Any, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
    """Undo `optimizer_state`; moments go to their parameter's device, step counts stay where the optimizer has them."""
    parameters = dict(_named(optimizer))
    optimizer.state.clear()
    for path, value in [*tensors.items(), *plain.items()]:
        name, _, key = path.rpartition(SEPARATOR)
        parameter = parameters[name]
        if isinstance(value, torch.Tensor):
            fused = optimizer.param_groups[0].get("fused") or optimizer.param_groups[0].get("capturable")
            on_device = value.ndim > 0 or fused
            value = value.to(parameter.device) if on_device else value
        optimizer.state[parameter][key] = value


def _named(optimizer: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [
        (name, parameter)
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"])
    ]

"""An optimizer's state by parameter name, as tensors and plain numbers: no pickle, and no order to rely on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

SEPARATOR = "|"


def optimizer_state(optimizer: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """`<parameter>|<key>` -> tensor, and the same for what is no tensor.

    A tensor that several parameters share (bitsandbytes' tables of 256 values) is there for each of them.
    """
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {}
    seen: set[int] = set()
    for name, parameter, _ in _named(optimizer):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{name}{SEPARATOR}{key}"] = value.clone() if value.data_ptr() in seen else value
                seen.add(value.data_ptr())
            else:
                plain[f"{name}{SEPARATOR}{key}"] = value
    return tensors, plain


def restore_optimizer(optimizer: Any, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
    """Undo `optimizer_state`; moments go to their parameter's device, step counts stay where the optimizer has them."""
    places = {name: (parameter, group) for name, parameter, group in _named(optimizer)}
    optimizer.state.clear()
    for path, value in [*tensors.items(), *plain.items()]:
        name, _, key = path.rpartition(SEPARATOR)
        parameter, group = places[name]
        if isinstance(value, torch.Tensor) and (value.ndim > 0 or group.get("fused") or group.get("capturable")):
            value = value.to(parameter.device)
        optimizer.state[parameter][key] = value


def _named(optimizer: Any) -> list[tuple[str, torch.nn.Parameter, dict[str, Any]]]:
    """Name, parameter and its group."""
    return [
        (name, parameter, group)
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"])
    ]

"""Attention weights that can be learnt: those of a model whose attention drops nothing.

transformers hands the weights out after dropout. Of weights a that are dropped with chance p and divided by 1 - p,
E[(drop(a) - t)^2] = (a - t)^2 + a^2 p / (1 - p): the least of it is not at the teacher's t.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

NAMES = ("dropout", "attn_dropout", "attention_dropout")
"""what a module that attends calls the share that it drops of its weights, or the nn.Dropout that does"""


def attention_modules(network: Any) -> Iterator[nn.Module]:
    """The innermost modules that attend: those around them add and normalise, and may drop something else."""
    for module in network.modules():
        if _attends(module) and not any(_attends(inner) for inner in module.modules() if inner is not module):
            yield module


def _attends(module: nn.Module) -> bool:
    return "Attention" in type(module).__name__


def knob(module: nn.Module) -> str | None:
    """By which attribute a module says how much of its attention it drops; None: by none that is known."""
    return next((name for name in NAMES if isinstance(getattr(module, name, None), (float, int, nn.Dropout))), None)


def drops_attention(network: Any) -> bool:
    """Is anything dropped?"""
    return any(_share(module) > 0 for module in attention_modules(network))


def can_stop(network: Any) -> bool:
    """Is it known of every module how it is kept from dropping?"""
    found = [knob(module) for module in attention_modules(network)]
    return bool(found) and None not in found


def stop_dropping_attention(network: Any) -> None:
    """From now on; the model's config goes on saying what it said."""
    for module in attention_modules(network):
        name = knob(module)
        if name is not None and isinstance(dropout := getattr(module, name), nn.Dropout):
            dropout.p = 0.0
        elif name is not None:
            setattr(module, name, 0.0)


def _share(module: nn.Module) -> float:
    name = knob(module)
    found = 0.0 if name is None else getattr(module, name)
    return float(found.p if isinstance(found, nn.Dropout) else found)

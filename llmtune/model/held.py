"""Frozen weights in bf16, where their files have them so: half the memory, the same numbers.

Under bf16 autocast a linear module computes with its weight in bf16. A weight that never trains and whose value is
one of bf16 can lie there in bf16 from the start: nothing is rounded that would not be anyway.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

BARE = ("torch", "builtins", "abc", "typing")
"""packages whose classes look at nothing of a family's"""
FEW = 4096
"""numbers of a weight that are looked at first: those of a file in fp32 tell at once"""


def hold(network: nn.Module, frozen: Collection[str], say: Callable[[str], None]) -> None:
    """Turn to bf16, in place, the weights of linear modules among the parameters `frozen`, and say how many these are.

    Left in fp32 is what a module of another kind holds too (a table of words), what bf16 would round, and what a
    family's code looks at (T5 turns states to the dtype of a weight, which then rounds LoRA's gradients).
    """
    own = dict(network.named_parameters())
    names = {id(parameter): name for name, parameter in own.items()}
    others = {
        id(parameter)
        for path, module in network.named_modules()
        for key, parameter in module.named_parameters(recurse=False)
        if not (_is_linear(module) and key == "weight") or _is_looked_at(network, path)
    }
    num_held = 0
    for module in filter(_is_linear, network.modules()):
        weight = module._parameters.get("weight")
        if weight is None or weight.dtype != torch.float32 or id(weight) in others:
            continue
        if names[id(weight)] in frozen and fits(weight.data):
            weight.data = weight.data.bfloat16()
            num_held += weight.numel()
    if num_held:
        num_frozen = sum(own[name].numel() for name in frozen)
        say(f"{num_held:,} of {num_frozen:,} frozen weights are held in bf16, as their files have them")


def fits(tensor: torch.Tensor) -> bool:
    """Is each number of an fp32 tensor one of bf16?"""
    few = tensor.flatten()[:FEW]
    return torch.equal(few.bfloat16().float(), few) and torch.equal(tensor.bfloat16().float(), tensor)


@contextmanager
def computed_in_fp32(*networks: nn.Module) -> Iterator[None]:
    """Inside, each held weight is fp32 while its module computes: for passes outside of autocast."""
    kept: dict[nn.Module, torch.Tensor] = {}

    def widen(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        kept[module] = module.weight.data
        module.weight.data = module.weight.data.float()
        return tuple(arg.float() for arg in args)  # some families turn states to what a weight is

    def put_back(module: Any, args: Any, output: Any) -> None:
        module.weight.data = kept.pop(module)

    modules = {module for network in networks for module in network.modules() if _is_linear(module)}
    held = [module for module in modules if getattr(module.weight, "dtype", None) == torch.bfloat16]
    hooks = [module.register_forward_pre_hook(widen) for module in held]
    hooks += [module.register_forward_hook(put_back, always_call=True) for module in held]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _is_linear(module: nn.Module) -> bool:
    """Not of a kind derived from these, whose forward pass may be another."""
    from transformers.pytorch_utils import Conv1D

    return type(module) in (nn.Linear, Conv1D)


def _is_looked_at(network: nn.Module, path: str) -> bool:
    """Does the module around a linear one do more with its weight than call it, as far as its source can be read?"""
    # peft's layer stands in the place of the model's
    around, _, name = path.removesuffix(".base_layer").rpartition(".")
    kind: Any = type(network.get_submodule(around))
    source = _source(kind)
    return source is None or re.search(rf"\bself\.{name}\.weight\b", source) is not None


@functools.cache
def _source(kind: Any) -> str | None:
    """Of a class and those that it derives from, but for torch's own; None: there is none."""
    try:
        own = [each for each in kind.__mro__ if each.__module__.partition(".")[0] not in BARE]
        return "".join(map(inspect.getsource, own))
    except (OSError, TypeError):
        return None

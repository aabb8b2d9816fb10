"""What may be done to a gradient between its sum and the step, besides clipping by norm: a limit by value, noise."""

from __future__ import annotations

import math

import torch
from torch import nn

from llmtune.core.seeds import fold


def clip_by_value(network: nn.Module, limit: float) -> None:
    """Bring every element of every gradient into [-limit, limit]."""
    nn.utils.clip_grad_value_(network.parameters(), limit)


@torch.no_grad()
def add_noise(network: nn.Module, scale: float, *, seed: int, step: int) -> None:
    """Add normal noise of variance scale / (1 + step)^0.55 to every gradient (Neelakantan et al., arXiv 1511.06807).

    Drawn as a function of (seed, step, name), so it is the same on all processes and after a resume.
    """
    deviation = math.sqrt(scale / (1 + step) ** 0.55)
    for name, parameter in network.named_parameters():
        gradient = parameter.grad
        if gradient is not None:
            draw = torch.Generator(gradient.device).manual_seed(fold(seed, "gradient noise", step, name))
            noise = torch.randn(gradient.shape, generator=draw, device=gradient.device, dtype=gradient.dtype)
            gradient.add_(noise, alpha=deviation)

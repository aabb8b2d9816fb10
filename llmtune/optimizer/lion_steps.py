"""The steps of Lion (Chen et al., arXiv 2302.06675, program 1), all parameters of a group at once."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer


class LionSteps(Optimizer):
    """w <- (1 - lr * decay) w - lr * sign(b1 m + (1 - b1) g), then m <- b2 m + (1 - b2) g."""

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float]):
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            gradients = [weight.grad for weight in weights]
            means = [self._mean(weight) for weight in weights]
            beta1, beta2 = group["betas"]
            directions = torch._foreach_lerp(means, gradients, 1 - beta1)
            torch._foreach_sign_(directions)
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, directions, alpha=-group["lr"])
            torch._foreach_lerp_(means, gradients, 1 - beta2)

    def _mean(self, weight: torch.Tensor) -> torch.Tensor:
        state = self.state[weight]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(weight)
        return state["exp_avg"]

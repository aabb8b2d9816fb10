"""The steps of schedule-free AdamW (Defazio et al., arXiv 2405.15682, algorithm 1).

Three points: `z` moves like AdamW, `x` is the average of z's path and is what the run gives away, `y` between them
is where gradients are taken. The network holds y, the state z; x follows from both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer


class ScheduleFreeSteps(Optimizer):
    """z <- z - lr (g / sqrt(v) + decay y); x <- (1 - c) x + c z with c = lr^2 / sum of lr^2; y = (1 - b1) z + b1 x.

    g is the gradient at y, v its running mean square without bias.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            ys = [weight for weight in group["params"] if weight.grad is not None]
            if not ys:
                continue
            gradients = [weight.grad for weight in ys]
            states = [self._state(weight) for weight in ys]
            (beta1, beta2), lr = group["betas"], group["lr"]
            for state in states:
                state["step"] += 1
                state["sum_of_weights"] += lr**2
            zs, squares = [state["z"] for state in states], [state["exp_avg_sq"] for state in states]
            xs = torch._foreach_lerp(ys, zs, 1 - 1 / beta1)
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
            roots = torch._foreach_div(squares, [1 - beta2 ** state["step"] for state in states])
            torch._foreach_sqrt_(roots)
            torch._foreach_add_(roots, group["eps"])
            torch._foreach_addcdiv_(zs, gradients, roots, -lr)
            torch._foreach_add_(zs, ys, alpha=-lr * group["weight_decay"])
            shares = [lr**2 / max(state["sum_of_weights"], 1e-38) for state in states]
            for x, y, z, share in zip(xs, ys, zs, shares):
                x.lerp_(z, share)
                torch.lerp(x, z, 1 - beta1, out=y)

    @torch.no_grad()
    def averaged(self, weight: torch.Tensor) -> torch.Tensor | None:
        """x of a parameter, a new tensor; None if it has never moved."""
        state = self.state.get(weight)
        beta1 = self.defaults["betas"][0]
        return torch.lerp(weight, state["z"], 1 - 1 / beta1) if state else None

    @torch.no_grad()
    def rest(self, weight: torch.Tensor) -> None:
        """A parameter stops to train, for a while or for good: it is its average from now on, in training as well."""
        average = self.averaged(weight)
        if average is not None:
            weight.copy_(average)
            self.state[weight]["z"].copy_(average)

    def _state(self, weight: torch.Tensor) -> dict[str, Any]:
        state = self.state[weight]
        if not state:
            state |= {"z": weight.detach().clone(), "exp_avg_sq": torch.zeros_like(weight), "step": 0,
                      "sum_of_weights": 0.0}  # fmt: skip
        return state

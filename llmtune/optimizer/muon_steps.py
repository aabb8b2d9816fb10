"""The steps of Muon and, for what is no hidden matrix, of torch's AdamW: one optimizer with one state.

Ours, not torch.optim.Muon: matrices of one shape go through the iteration together (a GPU is idle over one of
them), and in fp32 where bf16 would be emulated. Shapes: N matrices of A rows and B columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from llmtune.hardware.machine import cpu_has_bf16
from llmtune.optimizer.shared import fused_kernels

QUINTIC = (3.4445, -4.7750, 2.0315)
"""coefficients of the Newton-Schulz iteration, steepest at zero (Jordan et al. 2024, the Muon post)"""
MOST_STACKED = 2**25
"""elements of matrices that go through the iteration together; bounds its temporary memory"""


class MuonSteps(Optimizer):
    """m <- mu m + (1 - mu) g; w <- (1 - lr * decay) w - lr * 0.2 sqrt(max(A, B)) * orthogonalized(m).

    The factor gives steps the root mean square of AdamW's (arXiv 2502.16982, equation 4), so learning rate and decay
    tuned for AdamW serve both. Groups with `matrices: True` hold 2-D parameters only.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float, momentum: float, nesterov: bool, iterations: int,
        betas: tuple[float, float], eps: float,
    ):  # fmt: skip
        self.iterations = iterations
        super().__init__(groups, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": 0.0})
        rest = [group for group in self.param_groups if not group["matrices"]]
        self.adamw = AdamW(rest, lr=lr, betas=betas, eps=eps, fused=fused_kernels(rest)) if rest else None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            if group["matrices"]:
                self._step_matrices(group)
        if self.adamw is not None:
            # load_state_dict and a restored checkpoint put new objects in their place
            self.adamw.state = self.state
            self.adamw.param_groups = [group for group in self.param_groups if not group["matrices"]]
            self.adamw.step()

    def _step_matrices(self, group: dict[str, Any]) -> None:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        gradients = [weight.grad for weight in weights]
        buffers = [self._buffer(weight) for weight in weights]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        directions = buffers
        if group["nesterov"]:
            directions = list(torch._foreach_lerp(gradients, buffers, group["momentum"]))
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for places in _stacks(directions):
            stack_NAB = torch.stack([directions[place] for place in places])
            scale = 0.2 * max(stack_NAB.shape[-2:]) ** 0.5
            for place, update_AB in zip(places, orthogonalized(stack_NAB, self.iterations)):
                weights[place].add_(update_AB, alpha=-group["lr"] * scale)

    def _buffer(self, weight: torch.Tensor) -> torch.Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state["momentum_buffer"]


def orthogonalized(stack_NAB: torch.Tensor, iterations: int) -> torch.Tensor:
    """About U V' of each matrix U S V': all singular values between 0.7 and 1.2 (N, A, B), of the same dtype."""
    slow = stack_NAB.device.type == "cpu" and not cpu_has_bf16()
    tall = stack_NAB.shape[-2] > stack_NAB.shape[-1]
    x = stack_NAB.to(torch.float32 if slow else torch.bfloat16)
    x = x.mT if tall else x
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)  # singular values are at most 1 from here on
    a, b, c = QUINTIC
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(stack_NAB.dtype)


def split_off_matrices(groups: list[dict[str, Any]], layers: Any) -> list[dict[str, Any]]:
    """The groups, each cut in two by `matrices`: 2-D weights inside the layers, and embeddings, head, norms, biases."""
    split: list[dict[str, Any]] = []
    for group in groups:
        halves: dict[bool, dict[str, Any]] = {}
        for name, parameter in zip(group["names"], group["params"]):
            is_inside = layers.places.get(name, "").startswith("layer")
            is_matrix = is_inside and parameter.ndim == 2 and min(parameter.shape) > 1
            half = halves.setdefault(is_matrix, {**group, "params": [], "names": [], "matrices": is_matrix})
            half["params"].append(parameter)
            half["names"].append(name)
        split += halves.values()
    return split


def _stacks(matrices: list[torch.Tensor]) -> Iterator[list[int]]:
    """Places of matrices of one shape, as many together as MOST_STACKED allows."""
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for place, matrix in enumerate(matrices):
        by_shape[matrix.shape].append(place)
    for shape, places in by_shape.items():
        together = max(1, MOST_STACKED // shape.numel())
        for start in range(0, len(places), together):
            yield places[start : start + together]

"""AdaLoRA's running part: importance of each singular value as the steps go by, and the loss that keeps them apart.

Legend: r rank, I inputs, O outputs of a module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from llmtune.adapter.targets import linear_targets
from llmtune.adapter.tuner import Tuner, has_conv1d
from llmtune.core.types import EVERY_FEED, Batch, Loss

AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""peft's names: importance, and the running means of it and of its uncertainty; they are in no state dict"""


class AllocatingTuner(Tuner):
    """A change W + P L Q of singular-value form; `follow` masks the least important of all entries of L.

    From `hold` to 1 - `settle` of the run the number of entries kept falls with the cube of the time left.
    """

    def __init__(self, settings: Any, seed: int | None, num_steps: int):
        super().__init__(self._config, seed)
        self.settings = settings
        self.num_steps = num_steps

    def _config(self, network: Any) -> Any:
        from peft import AdaLoraConfig

        settings = self.settings
        names = linear_targets(network, settings.targets)
        settle = min(round(settings.settle * self.num_steps), self.num_steps - 1)
        return AdaLoraConfig(
            init_r=settings.rank, target_r=settings.target_rank, lora_alpha=settings.alpha,
            lora_dropout=settings.dropout, target_modules=names, fan_in_fan_out=has_conv1d(network, names),
            total_step=self.num_steps, tfinal=settle, deltaT=settings.every,
            tinit=min(round(settings.hold * self.num_steps), self.num_steps - settle - 1),
            beta1=settings.betas[0], beta2=settings.betas[1], orth_reg_weight=settings.orthogonality,
        )  # fmt: skip

    def terms(self) -> dict[str, Orthogonality]:
        """The loss that belongs to this adapter, as an objective."""
        named = list(self.inner.model.named_parameters())
        right, left = ([value for name, value in named if matrix in name] for matrix in ("lora_A", "lora_B"))
        return {Orthogonality.name: Orthogonality(self.settings.orthogonality, right, left)}

    def follow(self, step: int, result: Any) -> None:
        """Update importances by this step's gradients and mask; a step that was skipped or frozen is passed over."""
        allocator, config = self.inner.rankallocator, self.inner.peft_config["default"]
        last = config.total_step - config.tfinal
        gradients = all(
            parameter.grad is not None for name, parameter in self.inner.model.named_parameters() if _learns(name)
        )
        if step < last:
            due = gradients and math.isfinite(result.grad_norm)
        else:  # where nothing was ever seen all ranks stay
            due = bool(allocator.exp_avg_ipt) if step == last else config.rank_pattern is not None
        if due:
            self.inner.update_and_allocate(step)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        allocator = self.inner.rankallocator
        tensors = {f"{kind}/{name}": value for kind in AVERAGES for name, value in getattr(allocator, kind).items()}
        return tensors, {"rank_pattern": self.inner.peft_config["default"].rank_pattern}

    def load_state(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        allocator, device = self.inner.rankallocator, next(self.inner.model.parameters()).device
        for kind in AVERAGES:
            found = {name.removeprefix(f"{kind}/"): value.to(device) for name, value in tensors.items()
                     if name.startswith(f"{kind}/")}  # fmt: skip
            setattr(allocator, kind, found)
        self.inner.peft_config["default"].rank_pattern = plain["rank_pattern"]

    def save(self, network: Any, folder: Any, base: str | None) -> None:
        """All entries are written, masked ones as zeros, since an average of weights has none that are zero."""
        config = network.peft_config["default"]
        pattern, config.rank_pattern = config.rank_pattern, None
        super().save(network, folder, base)
        config.rank_pattern = pattern


class Orthogonality:
    """Mean over modules of ||P^T P - I|| and ||Q Q^T - I|| (Frobenius), counted once a row.

    Rows count so that the sum over micro-batches and processes, divided by the global count, is the mean itself.
    """

    name = "orthogonality"
    feed = EVERY_FEED
    views: tuple[str, ...] = ()

    def __init__(self, weight: float, right_rI: list[torch.Tensor], left_Or: list[torch.Tensor]):
        self._weight = weight
        self.right_rI = right_rI
        self.left_Or = left_Or

    def weight(self, step: int) -> float:
        return self._weight

    def count(self, batch: Batch) -> float:
        return float(len(batch.row_ids))

    def loss(self, trunk: Any, batch: Batch) -> Loss:
        device = self.right_rI[0].device
        with torch.autocast(device.type, enabled=False):  # the gap to I is lost in bf16
            grams_rr = [*(q_rI @ q_rI.T for q_rI in self.right_rI), *(p_Or.T @ p_Or for p_Or in self.left_Or)]
            gaps = [torch.linalg.norm(gram_rr - torch.eye(len(gram_rr), device=device)) for gram_rr in grams_rr]
        count = torch.tensor(self.count(batch), device=device)
        return Loss(torch.stack(gaps).mean() * count, count)


def _learns(name: str) -> bool:
    return any(matrix in name for matrix in ("lora_A", "lora_B", "lora_E"))

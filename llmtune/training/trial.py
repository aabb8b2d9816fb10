"""The trial before step 0: the worst batches go through once; what can't fit fails now and not in hour three."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from llmtune.core.errors import LlmtuneError
from llmtune.core.protocols import Balance
from llmtune.core.types import Batch
from llmtune.data.batches.feed import EvaluationFeed, Mixture
from llmtune.hardware.machine import Machine
from llmtune.model.composite import Composite
from llmtune.training.apart import Apart


@dataclass(frozen=True)
class Trial:
    micro_tokens: int
    """padded tokens per forward pass that fit"""
    without_gradient: tuple[str, ...]
    """trainable parameters that the objectives do not reach"""
    peak_memory: int
    """bytes"""


def try_worst(
    composite: Composite, optimizer: torch.optim.Optimizer, feed: Mixture, evaluation: EvaluationFeed | None,
    machine: Machine, *, adjust: bool, balance: Balance,
) -> Trial:  # fmt: skip
    """Forward, backward and optimizer step of the largest training batch, forward of the largest evaluation batch.

    What `balance` holds besides, gradients of each objective by itself and graphs that they come from, is held too.
    Weights, optimizer and random state are afterwards what they were: the step is made with a learning rate of 0
    and its moments are dropped. Where memory runs out and `adjust` is on, `feed.micro_tokens` is halved: an
    optimizer step still has the same rows, in more forward passes.

    Raises:
        LlmtuneError: it does not fit, with the sizes that were tried.
    """
    random_state = torch.random.get_rng_state()
    wanted = feed.micro_tokens
    while True:
        batches = feed.worst()
        batch = max(batches, key=lambda batch: batch.padded_tokens)
        try:
            # the moments that the first makes lie beside the second's activations, as they will in every step but one
            for _ in range(2 if machine.device.type == "cuda" else 1):
                missing = _train_once(composite, optimizer, batches, machine, balance)
                optimizer.zero_grad(set_to_none=True)
            if evaluation is not None:
                _evaluate_once(composite, evaluation, machine)
            break
        except torch.OutOfMemoryError as error:
            _clean(composite, optimizer)
            if not adjust or len(batch.row_ids) == 1:
                raise LlmtuneError(_advice(batch, adjust=adjust, apart=bool(balance.watched))) from error
            feed.micro_tokens = max(_width(batch), min(feed.micro_tokens, batch.padded_tokens) // 2)
    _clean(composite, optimizer)
    torch.random.set_rng_state(random_state)
    feed.micro_tokens = min(machine.gather([feed.micro_tokens]))
    if evaluation is not None and feed.micro_tokens < wanted:
        evaluation.max_tokens = feed.micro_tokens
    return Trial(feed.micro_tokens, missing, machine.peak_memory())


def _advice(batch: Batch, *, adjust: bool, apart: bool) -> str:
    """What ran out, and what to type."""
    tries = [f"data.max_tokens={max(16, _width(batch) // 2)}", "train.gradient_checkpointing=true"]
    if not adjust:
        tries.append("train.micro_rows=auto")
    if apart:
        tries.append("balance=fixed")
    return (f"out of memory with {len(batch.row_ids)} rows of {_width(batch)} tokens in one forward pass; "
            f"try {' or '.join(tries)}")  # fmt: skip


def _width(batch: Batch) -> int:
    """Tokens of a row with its padding."""
    return max(1, batch.padded_tokens // len(batch.row_ids))


def _train_once(
    composite: Composite, optimizer: torch.optim.Optimizer, batches: list[Batch], machine: Machine, balance: Balance
) -> tuple[str, ...]:
    """One step that changes nothing; names of trainable parameters that got no gradient."""
    apart = Apart(composite, balance.watched, machine) if balance.watched else None  # until the optimizer has stepped
    combines = hasattr(balance, "combine")
    for batch in batches:
        with machine.accelerator.autocast():
            losses = composite(batch.to(machine.device))
        means = {name: loss.total / max(1.0, float(loss.count)) for name, loss in losses.items()}
        if apart is not None:
            apart.add(means, keep_graph=not combines)
        if losses and not combines:
            sum(means.values()).backward()
    if apart is not None:
        _put_together(apart, balance, list(composite.objectives))
    missing = tuple(name for name, p in composite.named_parameters() if p.requires_grad and p.grad is None)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in composite.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()  # 0 * NaN would be NaN; only the memory matters here
    optimizer.step()
    return missing


def _put_together(apart: Apart, balance: Any, names: list[str]) -> None:
    """What comes of the gradients by objective, at its dearest: each points against the next.

    Processes wait for nobody here, since one of them may be out of memory.
    """
    if not hasattr(balance, "combine"):
        apart.norms(names, exchange=False)
        return
    gradients = apart.gathered(names, exchange=False)
    for number, gradient in enumerate(gradients.values()):
        for place, item in enumerate(gradient):
            if item is not None:
                gradient[place] = torch.full_like(item, (-1.0) ** number)
    apart.put(balance.combine(0, gradients))


def _evaluate_once(composite: Composite, feed: EvaluationFeed, machine: Machine) -> None:
    batch = feed.worst()
    if batch is not None:
        with machine.inference():
            view = batch.to(machine.device).views["clean"]
            model: Any = composite.model
            writes = getattr(model.config, "is_encoder_decoder", False) and model.can_generate()
            cut_later = writes and "decoder_input_ids" not in view  # a text that a task will cut in two itself
            model(**{**view, "decoder_input_ids": view["input_ids"]} if cut_later else view)


def _clean(composite: Composite, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    optimizer.state.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

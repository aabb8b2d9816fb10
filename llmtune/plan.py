"""How long a run is and what it takes: steps, learning rate, room on the disk."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.config.settings import Config
from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import FeedRows, Prospect
from llmtune.core.seeds import fold
from llmtune.freeze_policy.phases import will_train
from llmtune.reporting.words import size

if TYPE_CHECKING:
    from llmtune.data.batches.order import Order

DEFAULT_BATCH_TOKENS = 1024


def make_order(config: Config, rows: Any) -> Order:
    import numpy as np

    from llmtune.data.batches.order import Order

    train = config.train
    tokens = None if train.batch_rows else train.batch_tokens
    return Order(
        np.asarray(rows.with_format("numpy")["length"][:]), config.seed, train.batch_rows,
        DEFAULT_BATCH_TOKENS if tokens == "auto" else tokens, train.order,  # type: ignore[arg-type]
    )  # fmt: skip


def order_beside(order: Order, rows: FeedRows, name: str) -> Order:
    """The order of rows that an objective brings: in each step as many as it asks for, else as the task has."""
    import numpy as np

    lengths = np.asarray(rows.splits["train"].with_format("numpy")["length"][:])
    batch_rows, batch_tokens = rows.batch_rows, rows.batch_tokens
    if batch_rows is None and batch_tokens is None:
        batch_rows, batch_tokens = order.batch_rows, order.batch_tokens
    return dataclasses.replace(
        order, lengths=lengths, seed=fold(order.seed, "feed", name), batch_rows=batch_rows, batch_tokens=batch_tokens,
        _epochs={},
    )  # fmt: skip


def epoch_steps(config: Config, order: Order, feeds: Mapping[str, FeedRows]) -> int:
    """Optimizer steps in which the task's rows are read once; by expectation, where steps choose among sets of rows."""
    rows = {"task": len(order.lengths), **{name: len(feed.splits["train"]) for name, feed in feeds.items()}}
    return math.ceil(order.steps_per_epoch / config.sampling.shares(rows)["task"] - 1e-9)


def num_steps(config: Config, steps_per_epoch: int) -> int:
    train = config.train
    if train.max_steps:
        return train.max_steps
    epochs = config.model.recommended.epochs if isinstance(train.epochs, str) else train.epochs
    return max(1, math.ceil(epochs * steps_per_epoch - 1e-9))


def peak_lr(config: Config) -> float:
    """`optimizer.lr`; auto: what the model recommends (for all weights and AdamW), times factors of the run's parts."""
    if config.optimizer.lr != "auto":
        return float(config.optimizer.lr)
    factors = config.optimizer.auto_lr_factor * config.adapter.lr_factor
    return config.model.recommended.lr * factors * getattr(config.freeze_policy, "lr_factor", 1)


def disk_budget(prospect: Prospect, run: Path | None) -> int:
    """Bytes that checkpoints and model/ may take at most, fp32: whatever never trains once, and of what does `keep` + 1
    states (weights, what the optimizer holds, an average) and as many best models.

    Raises:
        ConfigError: the disk has less, what `run` holds already counted in.
    """
    config, train = prospect.config, prospect.config.train
    shapes = {name: parameter.shape for name, parameter in prospect.network.named_parameters()}
    trained = will_train(prospect)
    whole = sum(map(_weight_bytes, shapes.values()))
    changing = sum(_weight_bytes(shapes[name]) for name in trained)
    held = getattr(config.optimizer, "state_bytes", _two_moments)
    state = changing + sum(held(tuple(shapes[name])) for name in trained)
    if train.ema is not None or train.swa is not None:
        state += changing
    model = whole + (changing if prospect.layers.adapters else 0)  # the adapter is written by itself too
    budget = (whole - changing) + (state + changing) * (train.keep + 1) + model
    place = Path(run or config.run.dir or ".").expanduser().absolute()
    while not place.exists():
        place = place.parent
    there = sum(path.stat().st_size for path in run.rglob("*.safetensors")) if run else 0
    free = shutil.disk_usage(place).free
    if budget - there > free:
        raise ConfigError(
            Fault("run.dir", f"checkpoints may take {size(budget)}, {place} has {size(free)} free",
                  "room for them", "train.keep=1, or run.dir=DIR on another disk")
        )  # fmt: skip
    return budget


def _weight_bytes(shape: Sequence[int]) -> int:
    return 4 * math.prod(shape)


def _two_moments(shape: Sequence[int]) -> int:
    """What Adam and its kin hold for a weight of this shape; an optimizer's settings with `state_bytes` hold less."""
    return 2 * _weight_bytes(shape)

"""What all ways of sampling share: which sets of rows a run has, and draws of one set a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts, Prospect


def rows_by_feed(parts: Parts | Prospect) -> dict[str, int]:
    """Training rows of the task's set and of those that objectives bring."""
    return {
        "task": len(parts.splits["train"]),
        **{name: len(feed.splits["train"]) for name, feed in parts.feeds.items()},
    }


def refuse_one_feed(prospect: Prospect) -> None:
    """ConfigError where there is nothing to choose from."""
    if not prospect.feeds:
        raise ConfigError(
            Fault("sampling", f"{prospect.config.sampling.name}, but the run reads one set of rows",
                  "it chooses among sets, which objectives with rows of their own bring (auxiliary, replay ...)",
                  "type sampling=together")
        )  # fmt: skip


def shares_of(weights: Mapping[str, float]) -> dict[str, float]:
    """Chances that go as `weights` and sum to 1."""
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


class OneOfAll:
    """One set a step, known for every step beforehand; S steps of the run.

    The k-th time that a set comes it gives the k-th step of its own order.
    """

    def __init__(self, names: list[str], chosen_S: np.ndarray):
        self.names = names
        self.chosen_S = chosen_S
        self.own_S = np.zeros_like(chosen_S)
        for number in range(len(names)):
            here_S = chosen_S == number
            self.own_S[here_S] = np.arange(here_S.sum())

    def pick(self, step: int) -> dict[str, int]:
        return {self.names[int(self.chosen_S[step])]: int(self.own_S[step])}


def drawn(shares: Mapping[str, float], num_steps: int, rng: np.random.Generator) -> OneOfAll:
    """A set for each step by its chance. A longer run begins with the same draws as a shorter one."""
    edges = np.cumsum(list(shares.values()))
    chosen_S = np.searchsorted(edges / edges[-1], rng.random(num_steps), side="right")
    return OneOfAll(list(shares), chosen_S.astype(np.int64))


def even(rows: Mapping[str, Any]) -> dict[str, float]:
    return {name: 1 / len(rows) for name in rows}

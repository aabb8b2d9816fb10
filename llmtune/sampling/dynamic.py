"""One set a step, drawn by what was seen: how far its loss has fallen, or whether it still does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import at_least, between, one_of
from llmtune.core.seeds import generator
from llmtune.core.terms import TINY, falls, share_left, terms_of
from llmtune.sampling.feeds import even, refuse_one_feed, rows_by_feed, shares_of


@dataclass(frozen=True, kw_only=True)
class Dynamic:
    name: str
    signal: str
    sharpness: float
    least: float
    warmup: int
    memory: float

    def __post_init__(self) -> None:
        one_of("signal", self.signal, ("loss", "gain"))
        at_least("sharpness", self.sharpness, 0)
        between("least", self.least, 0, 1)
        at_least("warmup", self.warmup, 1)
        between("memory", self.memory, 0, 0.999)

    def check(self, prospect: Prospect) -> None:
        refuse_one_feed(prospect)
        if self.signal != "gain":
            return
        scored = {"task": "validation" in prospect.splits} | {
            name: "validation" in feed.splits and hasattr(feed.reader, "score") for name, feed in prospect.feeds.items()
        }
        unscored = [name for name, is_scored in scored.items() if not is_scored]
        if unscored or prospect.config.train.eval_every is None:
            given = f"no validation rows of {', '.join(unscored)}" if unscored else "train.eval_every=null scores none"
            raise ConfigError(
                Fault("sampling.signal", f"gain, but {given}", "it compares the validation losses of all sets",
                      "type sampling.signal=loss")
            )  # fmt: skip

    def shares(self, rows: Mapping[str, int]) -> dict[str, float]:
        return even(rows)  # what it begins with

    def build(self, parts: Parts) -> Drawing:
        return Drawing(self, list(rows_by_feed(parts)), terms_of(parts, falls), parts.config.seed)


class Drawing:
    """Chances that follow what was seen. A set's own steps are counted, its losses averaged: both go into checkpoints.

    `loss`: the running mean of each of a set's losses over its mean of the first `warmup` steps, averaged; a set
    whose losses have fallen less gets the larger chance. A loss that has risen counts as not fallen, and a set without
    losses that can fall as the others do on average. `gain`: the share of its validation loss that a set lost between
    the last two evaluations.
    """

    def __init__(self, settings: Dynamic, names: list[str], terms: list[str], seed: int):
        self.settings = settings
        self.terms = terms
        """objectives whose losses count: those that start above 0 and are to fall"""
        self.seed = seed
        self.counts = dict.fromkeys(names, 0)
        """steps that a set has given"""
        self.starts: dict[str, dict[str, float]] = {name: {} for name in names}
        """set -> objective -> mean of its losses over the first steps"""
        self.means: dict[str, dict[str, float]] = {name: {} for name in names}
        self.validation: dict[str, float] = {}
        self.gains: dict[str, float] = {}

    def pick(self, step: int) -> dict[str, int]:
        name = self.chosen(step)
        return {name: self.counts[name]}

    def chosen(self, step: int) -> str:
        fewest = min(self.counts, key=lambda name: self.counts[name])
        if self.counts[fewest] < self.settings.warmup:
            return fewest
        left = float(generator(self.seed, "sampling", step).random())
        chances = self.chances()
        for name, chance in chances.items():
            left -= chance
            if left < 0:
                return name
        return list(chances)[-1]

    def chances(self) -> dict[str, float]:
        """Of each set; they sum to 1."""
        signal = self._fallen_least() if self.settings.signal == "loss" else self.gains
        if not signal:
            return even(self.counts)
        drawn = shares_of({name: (signal[name] + TINY) ** self.settings.sharpness for name in self.counts})
        least = self.settings.least / len(drawn)
        return {name: least + (1 - self.settings.least) * share for name, share in drawn.items()}

    def _fallen_least(self) -> dict[str, float]:
        left = {}
        for name in self.counts:
            means, starts = self.means[name], self.starts[name]
            each = [share_left(means[term], starts[term]) for term in sorted(means) if starts[term] > TINY]
            if each:
                left[name] = sum(each) / len(each)
        usual = sum(left.values()) / len(left) if left else 1.0
        return {name: left.get(name, usual) for name in self.counts}

    def follow(self, step: int, result: Any) -> None:
        name = self.chosen(step)
        self.counts[name] += 1
        seen = {term: result.sums[term] / result.sums[f"{term}/count"] for term in self.terms
                if result.sums.get(f"{term}/count")}  # fmt: skip
        memory, warmup = self.settings.memory, self.settings.warmup
        starts, means = self.starts[name], self.means[name]
        for term, loss in seen.items():
            if self.counts[name] <= warmup or term not in starts:
                # the mean so far; a loss that sets in later starts then
                number = min(self.counts[name], warmup) if term in starts else 1
                starts[term] = starts.get(term, 0.0) + (loss - starts.get(term, 0.0)) / number
                means[term] = starts[term]
            else:
                means[term] = memory * means[term] + (1 - memory) * loss

    def follow_scores(self, step: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        """After an evaluation; `scores` by set, each with its `loss`."""
        losses = {name: scores[name]["loss"] for name in self.counts if name in scores}
        if len(losses) == len(self.counts):
            if self.validation:
                self.gains = {name: max(0.0, 1 - loss / max(self.validation[name], TINY))
                              for name, loss in losses.items()}  # fmt: skip
            self.validation = losses

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {name: getattr(self, name) for name in ("counts", "starts", "means", "validation", "gains")}

    def load_state(self, tensors: Mapping[str, Any], plain: Mapping[str, Any]) -> None:
        self.counts = {name: plain["counts"][name] for name in self.counts}  # their order decides what is drawn
        for name in ("starts", "means", "validation", "gains"):
            setattr(self, name, plain[name])

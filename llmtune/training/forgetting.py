"""How much a model forgets while it learns: the language-model loss of general text before, during and after.

Legend: B rows.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from llmtune.core.errors import Fault, ModelError
from llmtune.core.types import Batch, Loss
from llmtune.data.batches.feed import EvaluationFeed
from llmtune.hardware.machine import Machine
from llmtune.model.language_head import LanguageHead, head_is_there, language_kind, load_head
from llmtune.model.word_scores import WordScores
from llmtune.scoring.predictions import Outcomes
from llmtune.training.evaluation import predict

SPLIT = "forgetting"
"""of the lines in metrics.jsonl"""


def refuse_without_head(config: Any, model_config: Any) -> None:
    """ModelError where the model has no trained language-model head, so that its loss would say nothing."""
    kind = language_kind(model_config)
    name = f"{config.model.name} ({model_config.model_type})"
    if kind not in ("masked", "causal"):
        raise ModelError(
            Fault("train.watch_forgetting", f"{name} has no language-model head that scores plain text",
                  "an encoder with a masked-language-model head, or a decoder", "type train.watch_forgetting=null")
        )  # fmt: skip
    if not head_is_there(config.model, model_config):
        word = {"masked": "masked_lm", "causal": "causal_lm"}[kind]
        raise ModelError(
            Fault("train.watch_forgetting", f"{config.model.path or name} holds no trained language-model head, so "
                  "what it forgets can't be told by one", "weights with such a head",
                  f"llmtune train task={word} trains one; or type train.watch_forgetting=null")
        )  # fmt: skip


class Forgetting:
    """The rows, and the head through which they are scored: the one that an objective trains, else as it came."""

    def __init__(
        self, network: Any, feed: EvaluationFeed, tokenizer: Any, config: Any, heads: Iterable[LanguageHead],
        device: Any,
    ):  # fmt: skip
        self.network, self.feed = network, feed
        own = next(iter(heads), None)
        self.head = own if own is not None else load_head(config.model, network, seed=config.seed).to(device)
        kind = language_kind(network.config)
        assert kind is not None  # refused before
        self._scores = WordScores(kind, tokenizer)

    def measure(self, machine: Machine, should_stop: Callable[[], bool]) -> dict[str, float] | None:
        """`loss` of a word in nats, `perplexity`, `words`; None if a stop was asked for."""
        training = self.head.training
        self.head.eval()
        try:
            outcomes = Outcomes(len(self.feed.table))
            done = predict(self.network, self.feed, machine, outcomes, task=self, should_stop=should_stop)
        finally:
            self.head.train(training)
        if done is None:
            return None
        loss, words = done.mean, done.count
        return {"loss": loss, "perplexity": math.exp(min(700.0, loss)), "words": words}

    def watch(self, trainer: Any) -> bool:
        """Into metrics.jsonl at step 0, whenever the validation rows are due, and at the last step; was it so now?"""
        step, every, last = trainer.state.step, trainer.clocks.eval_every, trainer.clocks.num_steps
        due = step in (0, last) or (every and step % every == 0)
        if not due or trainer.state.watched_step == step:
            return False
        with trainer.average.in_place() if trainer.average else contextlib.nullcontext():
            scores = self.measure(trainer.machine, lambda: bool(trainer.should_stop()))
        if scores is not None:
            trainer.state.watched_step = step
            if trainer.metrics is not None:
                epoch = round(step / trainer.clocks.steps_per_epoch, 4)
                trainer.metrics.write({"step": step, "epoch": epoch, "split": SPLIT, **scores})
        return True

    def run(self, model: Any, batch: Batch) -> torch.Tensor:
        return self._scores.sums(model.base_model, self.head, batch)

    def loss(self, outputs_B3: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> Loss:
        return Loss(outputs_B3[:, 0].sum(), outputs_B3[:, 1].sum())


def told(records: Iterable[Mapping[str, Any]], after: Mapping[str, float], file: str | None) -> dict[str, Any]:
    """For result.json: the loss `before` the first step, `after` in the weights that were kept, and the `worst`.

    `records`: the lines of metrics.jsonl.
    """
    losses = [record["loss"] for record in records if record.get("split") == SPLIT]
    return {
        "file": file, "words": int(after["words"]), "before": losses[0] if losses else None, "after": after["loss"],
        "worst": max([*losses, after["loss"]]),
    }  # fmt: skip

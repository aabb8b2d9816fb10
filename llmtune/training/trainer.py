"""The loop. Parts come in made; `fit` reads like a page; whatever varies in time is a function of the step."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from llmtune.core.errors import ResumeError, Stopped
from llmtune.core.protocols import Stateful, Watcher
from llmtune.core.types import TrainState
from llmtune.data.batches.feed import EvaluationFeed, Mixture
from llmtune.hardware.machine import Machine
from llmtune.model.composite import Composite
from llmtune.model.prefix_cache import PrefixCache
from llmtune.run.checkpoint import MODEL, Checkpoint, CheckpointStore
from llmtune.run.metrics_log import MetricsLog
from llmtune.training.deciding import Deciding
from llmtune.training.ema import Average
from llmtune.training.evaluation import Evaluation, Scored, evaluate
from llmtune.training.forgetting import Forgetting
from llmtune.training.freezing import Freezing
from llmtune.training.optimizer_state import optimizer_state, restore_optimizer
from llmtune.training.step import Stepper, StepResult
from llmtune.training.weights import lasting_tensors, load_tensors, never_trained


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """When things happen, in optimizer steps; None: never (but the last step is always evaluated and saved)."""

    num_steps: int
    steps_per_epoch: int
    eval_every: int | None
    save_every: int | None
    log_every: int
    max_seconds: float | None
    patience: int | None
    min_gain: float


@dataclass(kw_only=True)
class Trainer:
    composite: Composite
    """the network as built"""
    module: nn.Module
    """the same, as wrapped for devices"""
    stepper: Stepper
    freezing: Freezing
    prefix: PrefixCache
    schedule: Callable[[int], float]
    """factor of `peak_lr` at a step"""
    peak_lr: float
    task: Any
    feed: Mixture
    validation: EvaluationFeed | None
    beside: Mapping[str, Scored]
    """by feed: validation rows of other tasks, scored whenever the task's are"""
    deciding: Deciding
    score_followers: Sequence[Any]
    """parts with `follow_scores(step, scores by feed)`"""
    forgetting: Forgetting | None
    clocks: Clocks
    machine: Machine
    store: CheckpointStore | None
    """None on all processes but the first"""
    metrics: MetricsLog | None
    speed: MetricsLog | None
    average: Average | None
    parts: Mapping[str, Stateful]
    """parts with a state of their own, kept in checkpoints"""
    fingerprints: Mapping[str, str]
    should_stop: Callable[[], str | None]
    """the name of a signal that came, or None"""
    watchers: list[Watcher]
    state: TrainState = field(default_factory=TrainState)
    evaluation: Evaluation | None = None
    """the newest, if it was made in this process"""
    ended_by: str = "all steps"
    _saved: dict[str, Any] | None = None
    _clock: float = 0.0

    def fit(self) -> None:
        """Train from `state.step` to the end.

        Raises:
            Stopped: a signal came; everything is saved.
            Diverged: NaN or Inf; the last checkpoint is whole.
        """
        self._clock = time.perf_counter()
        self._freeze()
        if self.machine.is_main:
            self.freezing.remember()
        try:
            while True:
                self._freeze()
                self._evaluate_if_due()
                if self.forgetting is not None and self.forgetting.watch(self):
                    self._clock = time.perf_counter()
                self._save_if_due()
                if self._at_end():
                    break
                self._stop_if_asked()
                self._train_one_step()
            self._evaluate()
            self._save()
            self.machine.wait()  # all processes read the best model next
        except BaseException:
            self.prefix.close()
            raise
        finally:
            for watcher in self.watchers:
                watcher.on_end()

    def _freeze(self) -> None:
        """What trains in the coming step; at the end of the run, what trained in the last one."""
        step = min(self.state.step, self.clocks.num_steps - 1)
        self.freezing.apply(step)
        self.prefix.turn(self.freezing.trainable or (), step)

    # ---- one step ----

    def _train_one_step(self) -> None:
        step = self.state.step
        waited = time.perf_counter()
        batches = self.feed.at(step)
        waited = time.perf_counter() - waited
        # ranks must agree on a stop, so several processes look for it between steps only
        alone = self.machine.world == 1
        asked = (lambda: bool(self.should_stop())) if alone else (lambda: False)
        result = self.stepper.run(step, batches, self.peak_lr * self.schedule(step), asked)
        if result is None:
            self._stop_if_asked()
            return
        self.state.step += 1
        self.state.rows_seen += result.rows
        self.state.tokens_seen += result.real_tokens
        self.state.padded_tokens_seen += result.padded_tokens
        if self.average is not None:
            self.average.update(step)
        self._log(result, waited)

    def _log(self, result: StepResult, waited_s: float) -> None:
        """Add to the window; write a line when it is full. Nothing in metrics.jsonl depends on the clock."""
        window = self.state.window
        for name, value in result.sums.items():
            window[name] = window.get(name, 0.0) + value
        window["steps"] = window.get("steps", 0) + 1
        skipped = not math.isfinite(result.grad_norm)  # fp16: the scaler passed over this step
        window["skipped"] = window.get("skipped", 0) + skipped
        window["grad_norm"] = window.get("grad_norm", 0.0) + (0.0 if skipped else result.grad_norm)
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        self.state.seconds += seconds
        step = self.state.step
        lr = self.peak_lr * self.schedule(step - 1)
        seen = {
            "step": step, "epoch": self._epoch(), "loss": result.sums["loss"], "lr": lr, "seconds": seconds,
            "waited_s": waited_s, "real_tokens": result.real_tokens, "padded_tokens": result.padded_tokens,
            "rows": result.rows,
        }  # fmt: skip
        for watcher in self.watchers:
            watcher.on_step(seen)
        if step % self.clocks.log_every == 0 or step == self.clocks.num_steps:
            steps, num_skipped = window.pop("steps"), window.pop("skipped")
            record = {"step": step, "epoch": self._epoch(), "split": "train", "loss": window["loss"] / steps}
            names = [name for name in self.stepper.objectives if window.get(f"{name}/count")]
            if len(self.stepper.objectives) > 1:
                record |= {f"loss/{name}": window[name] / max(window[f"{name}/count"], 1e-12) for name in names}
            record |= {f"weight/{name}": value for name, value in result.weights.items() if name in self._weighed}
            record |= {"lr": lr, "grad_norm": window["grad_norm"] / max(1, steps - num_skipped)}
            self._write(self.metrics, record | ({"skipped_steps": int(num_skipped)} if num_skipped else {}))
            window.clear()
        if self.speed is not None:
            self._write(self.speed, {
                "step": step, "seconds": round(seconds, 5), "waited_s": round(waited_s, 6),
                "tokens_per_second": round(result.real_tokens / max(seconds, 1e-9), 1),
                "padding_share": round(1 - result.real_tokens / max(1, result.padded_tokens), 4),
                "peak_memory_bytes": self.machine.peak_memory(),
            })  # fmt: skip

    @property
    def _weighed(self) -> set[str]:
        """Objectives whose weight is not the same all along."""
        parts, learns = self.stepper.objectives, self.stepper.balance.learns
        return {name for name, part in parts.items() if learns or getattr(part.weight, "changes", False)}

    def _write(self, log: MetricsLog | None, record: Mapping[str, Any]) -> None:
        if log is not None:
            log.write(record)

    def _epoch(self) -> float:
        return round(self.state.step / self.clocks.steps_per_epoch, 4)

    # ---- evaluation ----

    def _evaluate_if_due(self) -> None:
        every, step = self.clocks.eval_every, self.state.step
        if every and step and step % every == 0 and step < self.clocks.num_steps:
            self._evaluate()

    def _evaluate(self) -> None:
        """Score the validation rows at this step, once; keep the model if it is the best so far."""
        if self.validation is None or self.state.evaluated_step == self.state.step:
            return
        found = self._evaluations(self.validation)
        if found is None:
            self._stop(self._agreed_stop() or "a signal")
            return
        done = found.pop("task")
        self.evaluation = done
        self.state.eval_seconds += done.seconds + sum(one.seconds for one in found.values())
        beside = {name: one.scores for name, one in found.items()}
        scores, score = self.deciding.told(done.scores, beside), self.deciding.score(done.scores, beside)
        self._note_score(score, scores, beside)
        for part in self.score_followers:
            part.follow_scores(self.state.step, {"task": done.scores, **beside})
        place = {"step": self.state.step, "epoch": self._epoch()}
        record = {**place, "split": "validation", **scores}
        self._write(self.metrics, record)
        others = {name.rpartition("/")[2]: scores for name, scores in beside.items()}
        for name, scores in others.items():
            self._write(self.metrics, {**place, "split": f"validation/{name}", **scores})
        for watcher in self.watchers:
            watcher.on_evaluation({
                **record, "beside": others, "metric": self.deciding.metric, "score": score, "seconds": done.seconds,
                "best_score": self.state.best_score, "best_step": self.state.best_step, "own": self.deciding.named,
            })  # fmt: skip
        # evaluation time is told apart from training time
        self._clock = time.perf_counter()

    def _evaluations(self, validation: EvaluationFeed) -> dict[str, Evaluation] | None:
        """By feed, of the weights that are kept; None if a stop was asked for."""
        found = {}
        with self.average.in_place() if self.average else contextlib.nullcontext():
            for name, one in {"task": Scored(self.composite.model, validation, self.task), **self.beside}.items():
                forward = self.composite.trunk.evaluated if name == "task" else None
                done = evaluate(
                    one.model, one.feed, self.machine, one.task, lambda: bool(self.should_stop()), forward,
                    thorough=False,
                )  # fmt: skip
                if done is None:
                    return None
                found[name] = done
        return found

    def _note_score(
        self, score: float | None, scores: Mapping[str, float], beside: Mapping[str, Mapping[str, float]]
    ) -> None:
        state = self.state
        state.evaluated_step, state.last_score = state.step, score
        sign = 1 if self.deciding.mode == "max" else -1
        if score is None or not math.isfinite(score):
            return  # not defined on these rows yet (a correlation of equal predictions): neither gain nor loss
        if state.best_score is None or sign * (score - state.best_score) > self.clocks.min_gain:
            state.best_score, state.best_step, state.evals_without_gain = score, state.step, 0
            self._save_best(scores, beside)
        else:
            state.evals_without_gain += 1

    def _save_best(self, scores: Mapping[str, float], beside: Mapping[str, Mapping[str, float]]) -> None:
        if self.store is not None:
            told = {"scores": dict(scores), "beside": {name: dict(found) for name, found in beside.items()}}
            self.store.save("best", self.state.step, {MODEL: self.kept_weights()}, told, self._never_trained())

    # ---- the end ----

    def _at_end(self) -> bool:
        clocks, state = self.clocks, self.state
        if state.step >= clocks.num_steps:
            return True
        if clocks.patience and state.evals_without_gain >= clocks.patience:
            self.ended_by = f"patience: {state.evals_without_gain} evaluations without a gain"
            return True
        late = clocks.max_seconds is not None and state.seconds >= clocks.max_seconds
        if clocks.max_seconds is not None and self.machine.add_up([float(late)])[0]:
            self.ended_by = "max_time"
            return True
        return False

    def _agreed_stop(self) -> str | None:
        """The name of a signal that reached any of the processes; all of them get the same answer."""
        name = self.should_stop()
        anywhere = self.machine.add_up([float(bool(name))])[0]
        return (name or "a signal") if anywhere else None

    def _stop_if_asked(self) -> None:
        name = self._agreed_stop()
        if name:
            self._stop(name)

    def _stop(self, name: str) -> None:
        self._save()
        raise Stopped(f"stopped by {name} after step {self.state.step}; everything is saved, resume=auto goes on")

    # ---- saving and resuming ----

    def _save_if_due(self) -> None:
        every, step = self.clocks.save_every, self.state.step
        if every and step and step % every == 0 and step < self.clocks.num_steps:
            self._save()

    def _save(self) -> None:
        """Write the state of this step, unless it is on the disk already."""
        now = self.state.without_clocks()
        if now == self._saved:
            return
        self.prefix.flush()
        if self.store is not None:
            optimizer_tensors, optimizer_plain = optimizer_state(self.stepper.optimizer)
            tensors = {MODEL: self._weights(), "optimizer": optimizer_tensors}
            plain: dict[str, Any] = {}
            for name, part in self._stateful().items():
                tensors[name], plain[name] = part.state()
            scaler = self.machine.accelerator.scaler
            self.store.save("step", self.state.step, tensors, {
                "train_state": self.state.to_json(),
                "optimizer": optimizer_plain,
                "scaler": scaler.state_dict() if scaler is not None else None,
                "parts": plain,
                "metrics_mark": self.metrics.mark() if self.metrics else 0,
                "speed_mark": self.speed.mark() if self.speed else 0,
                "micro_tokens": self.feed.micro_tokens,
                "processes": self.machine.world,
                "fingerprints": dict(self.fingerprints),
            }, self._never_trained())  # fmt: skip
            self.store.prune(best_step=self.state.best_step)
        self._saved = now
        self._clock = time.perf_counter()

    def _stateful(self) -> dict[str, Stateful]:
        return {**({"ema": self.average} if self.average else {}), **self.parts}

    def _weights(self) -> dict[str, torch.Tensor]:
        return lasting_tensors(self.composite)

    def _never_trained(self) -> frozenset[str]:
        return never_trained(self.freezing, self.clocks.num_steps)

    def kept_weights(self) -> dict[str, torch.Tensor]:
        """The weights that are evaluated and given away: their average where there is one."""
        return {**self._weights(), **(self.average.average if self.average else {})}

    def resume(self, checkpoint: Checkpoint | None) -> None:
        """Put everything back as it was at the checkpoint; all parts must be made and wrapped already.

        None: a run that died before its first save; what it logged is forgotten.

        Raises:
            ResumeError: data or model are not those of the checkpoint.
        """
        if checkpoint is not None:
            self._restore(checkpoint)
        for log, mark in ((self.metrics, "metrics_mark"), (self.speed, "speed_mark")):
            if log is not None:
                log.cut_back(checkpoint.state[mark] if checkpoint else 0)

    def _restore(self, checkpoint: Checkpoint) -> None:
        saved = checkpoint.state
        changed = [key for key, value in self.fingerprints.items() if saved["fingerprints"].get(key) != value]
        if changed:
            raise ResumeError(f"resume: {', '.join(changed)} changed since {checkpoint.path}; start a new run")
        if self.store is not None:
            self.store.go_on_from(checkpoint)
        self.load_weights(checkpoint.tensors(MODEL))
        restore_optimizer(self.stepper.optimizer, checkpoint.tensors("optimizer"), saved["optimizer"])
        for name, part in self._stateful().items():
            part.load_state(checkpoint.tensors(name), saved["parts"].get(name, {}))
        if saved["scaler"] is not None and self.machine.accelerator.scaler is not None:
            self.machine.accelerator.scaler.load_state_dict(saved["scaler"])
        # other forward passes would draw other dropout
        self.feed.micro_tokens = min(self.feed.micro_tokens, saved["micro_tokens"])
        if self.validation is not None:
            self.validation.max_tokens = self.feed.micro_tokens
        self.state = TrainState(**saved["train_state"])
        self._saved = self.state.without_clocks()

    def load_best(self, best: Checkpoint) -> None:
        """Its weights into the network, but for what never trained: that stays what it is, for the proof to look at."""
        self.load_weights(best.tensors(MODEL), but=self._never_trained())

    def load_weights(self, tensors: Mapping[str, torch.Tensor], *, but: frozenset[str] = frozenset()) -> None:
        """Copy weights into the network, `but` for some; ResumeError if the names are not the network's."""
        load_tensors(self.composite, tensors, but=but)
        if self.freezing.policy.changes:
            self.prefix.close()  # what is frozen now may have trained when these were saved

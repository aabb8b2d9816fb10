"""What a run says of itself in words: at its start and at its end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def size(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


def count(number: float) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return f"{number:g}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02} h"
    return f"{minutes}:{rest:02} min" if minutes else f"{seconds:.1f} s"


def few(names: tuple[str, ...] | list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def plan_lines(prepared: Any) -> list[str]:
    """What will be trained for how long; what `check` prints last."""
    config, order = prepared.config, prepared.order
    mean = any(getattr(part, "best_by", "task") == "mean" for part in config.objective.values())
    per_step = f"{config.train.batch_rows} rows" if config.train.batch_rows else f"{order.batch_tokens} tokens"
    return [
        f"model: {config.model.name} ({prepared.model_config.model_type}), {count(prepared.parameters)} parameters, "
        f"rows of at most {prepared.max_tokens} tokens",
        f"task: {config.task.name}, {prepared.task.problem_type}"
        + (f", {prepared.task.num_outputs} labels" if prepared.task.labels else "")
        + f"; best by {'the mean of the metrics of all tasks' if mean else prepared.task.metric}",
        f"plan: {prepared.num_steps:,} steps of {per_step} ({prepared.num_steps / prepared.steps_per_epoch:.3g} epochs "
        f"of {prepared.steps_per_epoch:,}), lr {prepared.peak_lr:g} {config.optimizer.schedule}",
        *_beside(prepared),
        prepared.prefix.line,
        f"disk: the run folder takes at most {size(prepared.disk_budget)}",
    ]


def _beside(prepared: Any) -> list[str]:
    """Which sets of rows there are besides the task's, and how often each is read."""
    if not prepared.feeds:
        return []
    rows = {"task": len(prepared.splits["train"])}
    rows |= {name: len(feed.splits["train"]) for name, feed in prepared.feeds.items()}
    shares = prepared.config.sampling.shares(rows)
    each = ", ".join(f"{name} {number:,} rows ({shares[name]:.0%} of steps)" for name, number in rows.items())
    return [f"sets of rows: {each}; sampling {prepared.config.sampling.name}, balance {prepared.config.balance.name}"]


def starting_lines(prepared: Any, loaded: Any, trial: Any, machine: Any) -> list[str]:
    """What starts at random, the hardware, and what the trial of the worst batch found."""
    lines = []
    if loaded.new_parameters:
        lines.append(f"new, from random values: {few(loaded.new_parameters)}")
    if trial.without_gradient:
        lines.append(f"no gradient reaches, so they stay as they are: {few(trial.without_gradient)}")
    if loaded.new_parameters and {f"model.{name}" for name in loaded.new_parameters} <= set(trial.without_gradient):
        lines.append("nothing teaches the task: its new head stays random; add supervised to objective=[...]")
    facts = machine.describe()
    at = f"{facts['processes']} processes, " if facts["processes"] > 1 else ""
    lines.append(
        f"hardware: {at}{facts['name']}, {facts['precision']}, {facts['threads']} threads; the largest batch fits, "
        f"peak memory {size(trial.peak_memory)}"
    )
    if trial.micro_tokens < prepared.config.train.micro_tokens:
        lines.append(
            f"out of memory at first: forward passes of {trial.micro_tokens} tokens now, steps keep their rows"
        )
    return lines


def ending_lines(run: Path, result: Mapping[str, Any], columns: list[str], use: str | None = None) -> list[str]:
    """Path, score, and the command that uses the model; `use`: another way to use it, which names DIR."""
    metric, best = result["metric"], result["best"]
    lines = [""]
    if best["score"] is not None:
        lines.append(f"best {metric} {best['score']:.4f} on validation at step {best['step']}")
    if result.get("test"):
        shown = ", ".join(f"{name} {value:.4f}" for name, value in list(result["test"].items())[:6])
        lines.append(f"test: {shown}")
    for name, scores in result.get("auxiliary_test", {}).items():
        shown = ", ".join(f"{key} {value:.4f}" for key, value in list(scores.items())[:6])
        lines.append(f"test of {name}: {shown}")
    if result.get("majority") is not None:
        lines.append(f"      (always the most frequent label: accuracy {result['majority']:.4f})")
    path = shlex.quote(str(run))
    if use is not None:
        return [*lines, f"run folder: {path}", f"use it: {use.replace('DIR', path)}"]
    return [
        *lines,
        f"run folder: {path}",
        f"predict with it: llmtune predict {path} FILE.csv -o predictions.csv"
        + (f"    (texts in column {' and '.join(columns)} of FILE.csv)" if columns else ""),
        *(f"of {name}: llmtune predict {path}/model/auxiliary/{name} FILE.csv -o predictions.csv"
          for name in result.get("auxiliary", {})),
    ]  # fmt: skip

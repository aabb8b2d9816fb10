"""The figures of bench_freeze.py as Markdown."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

NAMES = {"llmtune": "llmtune", "grouped": "Trainer, group_by_length", "dynamic": "Trainer, dynamic padding"}


def table(folder: Path) -> list[str]:
    """All parts whose JSON is there."""
    makers = {"steps": of_steps, "cache": of_cache, "probe": of_probe, "trainer": of_trainer}
    lines: list[str] = []
    for part, make in makers.items():
        path = folder / f"{part}.json"
        if path.exists():
            lines += [f"### {part}", *make(json.loads(path.read_text())), ""]
    return lines


def of_steps(found: dict[str, Any]) -> list[str]:
    return [
        "| trainable | step ms | forward of all + backward of k, ms | ratio | full tuning / this | loss, first and "
        "last | least gradient norm |",
        "|---|---:|---:|---:|---:|---|---:|",
        *(f"| {'head' if not row['trainable_layers'] else 'head and ' + str(row['trainable_layers']) + ' of 6'} | "
          f"{1000 * row['seconds']:.0f} | {1000 * row['by_count']:.0f} | {row['ratio']:.2f} | "
          f"{row['full_over_this']:.2f}x | {row['first_loss']:.3f}, {row['last_loss']:.3f} | {row['least_norm']:.2f} |"
          for row in found["rows"]),
        f"| everything | {1000 * found['full_s']:.0f} | | | 1.00x | {found['full']['first_loss']:.3f}, "
        f"{found['full']['last_loss']:.3f} | {found['full']['least_norm']:.2f} |",
        "", f"A forward pass alone: {1000 * found['forward_s']:.0f} ms.",
    ]  # fmt: skip


def of_cache(found: dict[str, Any]) -> list[str]:
    return [
        "| policy | epoch uncached s | epoch that fills s | epoch cached s | cached is | evaluation | losses apart | "
        "weights apart | metrics equal | loss, first and last | least gradient norm |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|---|---:|",
        *(f"| {row['policy'].replace('freeze_policy', '').replace('=', ' ').replace('.', '').strip()} | "
          f"{row['plain_s']:.2f} | {row['filling_s']:.2f} | {row['cached_s']:.3f} | "
          f"{row['plain_s'] / row['cached_s']:.1f}x | {row['plain_eval_s'] / row['cached_eval_s']:.1f}x | "
          f"{row['loss_apart']:.1e} | {row['weights_apart']:.1e} | {row['metrics_equal']} | "
          f"{row['first_loss_cached']:.3f}, {row['last_loss_cached']:.3f} | {row['least_norm_cached']:.2f} |"
          for row in found["rows"]),
    ]  # fmt: skip


def of_probe(found: dict[str, Any]) -> list[str]:
    lines = [
        "| | seed | training s | of it by epoch | evaluation s | dev accuracy by epoch |",
        "|---|---|---:|---|---:|---|",
    ]  # fmt: skip
    for run in found["runs"]:
        epochs = ", ".join(f"{seconds:.1f}" for seconds in run["epoch_s"])
        scores = ", ".join(f"{score:.4f}" for score in run["accuracies"])
        times = f"{run['train_s']:.1f} | {epochs} | {run['eval_s']:.1f}"
        lines.append(f"| {run['who']} | {run['seed']} | {times} | {scores} |")
    by = {who: [run for run in found["runs"] if run["who"] == who] for who in ("full", "probe_then_tune")}
    for who, runs in by.items():
        lines.append(f"| **{who}, mean** | | {statistics.mean(run['train_s'] for run in runs):.1f} | | | last "
                     f"{statistics.mean(run['accuracies'][-1] for run in runs):.4f}, best "
                     f"{statistics.mean(max(run['accuracies']) for run in runs):.4f} |")  # fmt: skip
    return lines


def of_trainer(found: dict[str, Any]) -> list[str]:
    runs = {run["who"]: run for run in found["runs"]}
    own = runs["llmtune"]
    spent = {who: run["train_s"] + run["eval_s"] for who, run in runs.items()}
    return [
        "| | training s | evaluation s | together | llmtune is | whole process s | dev accuracy by epoch | loss, first "
        "and last | least gradient norm |",
        "|---|---:|---:|---:|---:|---:|---|---|---:|",
        *(f"| {NAMES[who]} | {run['train_s']:.1f} | {run['eval_s']:.1f} | {spent[who]:.1f} | "
          f"{spent[who] / spent['llmtune']:.2f}x | {run['process_s']:.1f} | "
          f"{', '.join(f'{score:.4f}' for score in run['accuracies'])} | {run['first_loss']:.3f}, "
          f"{run['last_loss']:.3f} | {run['grad_norm']:.2f} |"
          for who, run in runs.items()),
        "", f"llmtune's epochs: {', '.join(f'{seconds:.1f}' for seconds in own['epoch_s'])} s of training.",
    ]  # fmt: skip

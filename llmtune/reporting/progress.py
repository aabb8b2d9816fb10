"""The progress display: one moving line on a terminal, plain lines elsewhere. It watches and changes nothing."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from llmtune.reporting.words import duration
from llmtune.run.console import Console

WINDOW_STEPS = 50
PLAIN_EVERY_S = 10.0


def make_watchers(console: Console) -> list[Any]:
    return [Bar(console) if sys.stdout.isatty() else PlainLines(console)]


class Rates:
    """Rate, padding and time left over the last steps."""

    def __init__(self) -> None:
        self.steps: deque[tuple[float, int, int, float]] = deque(maxlen=WINDOW_STEPS)
        self.num_steps = 0

    def add(self, record: Mapping[str, Any]) -> None:
        self.steps.append((record["seconds"], record["real_tokens"], record["padded_tokens"], record["loss"]))

    def line(self, record: Mapping[str, Any], num_steps: int) -> dict[str, str]:
        seconds = sum(step[0] for step in self.steps)
        real, padded = sum(step[1] for step in self.steps), sum(step[2] for step in self.steps)
        loss = sum(step[3] for step in self.steps) / len(self.steps)
        left = (num_steps - record["step"]) * seconds / len(self.steps)
        return {
            "loss": f"{loss:.4f}",
            "rate": f"{real / max(seconds, 1e-9):,.0f} tokens/s",
            "padding": f"{1 - real / max(1, padded):.0%} padding",
            "left": f"{duration(left)} left",
        }


class PlainLines:
    """A line every few seconds and at each evaluation."""

    def __init__(self, console: Console):
        self.console = console
        self.rates = Rates()
        self.num_steps = 0
        self.last = time.monotonic()

    def on_plan(self, plan: Mapping[str, Any]) -> None:
        self.num_steps = plan["num_steps"]

    def on_step(self, record: Mapping[str, Any]) -> None:
        self.rates.add(record)
        if time.monotonic() - self.last > PLAIN_EVERY_S:
            self.last = time.monotonic()
            facts = self.rates.line(record, self.num_steps)
            self.console.say(
                f"step {record['step']}/{self.num_steps}  epoch {record['epoch']:.2f}  loss {facts['loss']}  "
                f"lr {record['lr']:.2e}  {facts['rate']}, {facts['padding']}  {facts['left']}"
            )

    def on_evaluation(self, record: Mapping[str, Any]) -> None:
        self.console.say(evaluation_line(record))

    def on_end(self) -> None:
        pass


def evaluation_line(record: Mapping[str, Any]) -> str:
    score = "not defined" if record["score"] is None else f"{record['score']:.4f}"
    own = record.get("own", {}).get("task", record["metric"])  # beside a mean of all tasks
    score += f", {own} {record[own]:.4f}" if own != record["metric"] and own in record else ""
    # none where it is of a step, not of rows
    loss = f", loss {record['loss']:.4f}" if "loss" in record and record["metric"] != "loss" else ""
    best = ""
    if record["best_step"] is not None:
        best = "  best so far" if record["best_step"] == record["step"] else (
            f"  best {record['best_score']:.4f} at step {record['best_step']}"
        )  # fmt: skip
    return (
        f"step {record['step']}  validation: {record['metric']} {score}{loss} "
        f"({duration(record['seconds'])}){best}" + _beside(record)
    )


def _beside(record: Mapping[str, Any]) -> str:
    """Metric and loss of each other task."""
    lines = []
    for name, scores in record.get("beside", {}).items():
        keys = (key for key in (record["own"][name], "loss") if key in scores)
        lines.append(f"\n      {name}: " + ", ".join(f"{key} {scores[key]:.4f}" for key in keys))
    return "".join(lines)


class Bar:
    """A rich progress bar with loss, rate, padding, time left, last and best score."""

    def __init__(self, console: Console):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.console = console
        self.rates = Rates()
        self.num_steps = 0
        self.score = ""
        self.progress = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=20),
            TextColumn("loss {task.fields[loss]}  {task.fields[rate]}, {task.fields[padding]}  {task.fields[left]}"),
            TextColumn("{task.fields[score]}"), transient=True,
        )  # fmt: skip
        self.bar: Any = None

    def on_plan(self, plan: Mapping[str, Any]) -> None:
        self.num_steps = plan["num_steps"]
        fields = {"loss": "-", "rate": "-", "padding": "-", "left": "-", "score": ""}
        self.bar = self.progress.add_task("train", total=self.num_steps, completed=plan["step"], **fields)  # type: ignore[arg-type]
        self.progress.start()

    def on_step(self, record: Mapping[str, Any]) -> None:
        self.rates.add(record)
        facts = self.rates.line(record, self.num_steps)
        self.progress.update(self.bar, completed=record["step"], score=self.score, **facts)  # type: ignore[arg-type]

    def on_evaluation(self, record: Mapping[str, Any]) -> None:
        line = evaluation_line(record)
        self.progress.console.print(line, highlight=False)
        self.console.note(line)
        if record["score"] is not None and record["best_score"] is not None:
            self.score = f"{record['metric']} {record['score']:.4f} (best {record['best_score']:.4f})"

    def on_end(self) -> None:
        self.progress.stop()

"""`llmtune check`: everything that `train` looks at before it loads weights, and nothing else."""

from __future__ import annotations

from typing import Any

from llmtune.config.compose import run_job
from llmtune.config.settings import Config


def main(argv: list[str]) -> int:
    return run_job("check", argv, check)


def check(config: Config, cfg: Any, typed: list[str]) -> int:
    from llmtune.preflight import preflight
    from llmtune.reporting.words import plan_lines
    from llmtune.run.console import Console
    from llmtune.run.signals import StopRequest

    console = Console()
    prepared = preflight(config, console, StopRequest())
    for line in [*summary_of(prepared), *plan_lines(prepared)]:
        console.say(line)
    console.say("all good: `llmtune train` with the same words would start now")
    return 0


def summary_of(prepared: Any) -> list[str]:
    from llmtune.data.report import summary

    return summary(prepared.report)

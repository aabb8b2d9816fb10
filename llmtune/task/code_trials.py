"""Runs the programs that a model wrote against the tests of their rows, where this machine can contain them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from llmtune.core.errors import ConfigError
from llmtune.scoring.sandbox import Limits, Program, Sandbox

MOST_WORKERS, MOST_KNOWN = 8, 100_000


class Trials:
    """What the settings `run_tests`, `sandbox` and `test_*` of a task come to."""

    def __init__(self, settings: Any):
        self.settings = settings
        self.refusal: ConfigError | None = None
        """why programs can't be run here; None: they can, or nobody has asked"""
        self.is_told = False
        """has the user read why?"""
        self._box: Sandbox | None = None
        self._known: dict[bytes, tuple[bool, str]] = {}
        """verdicts by program, as scores, reports and predictions ask for them in turn"""

    def box(self) -> Sandbox | None:
        """Where programs are run; None where they must not be.

        Raises:
            ConfigError: they must be (`run_tests: always`), and can't be contained.
        """
        settings = self.settings
        if settings.run_tests == "never":
            return None
        if self._box is None and self.refusal is None:
            limits = Limits(seconds=settings.test_seconds, memory_bytes=settings.test_memory_mb << 20)
            workers = settings.test_workers
            try:
                self._box = Sandbox(
                    limits, workers=min(MOST_WORKERS, os.cpu_count() or 1) if isinstance(workers, str) else workers,
                    loose=settings.sandbox == "loose",
                )  # fmt: skip
            except ConfigError as refusal:
                self.refusal = refusal
        if self.refusal is not None and (settings.run_tests == "always" or settings.metric.startswith("pass@")):
            raise self.refusal
        return self._box

    def verdicts(self, programs: Sequence[Program]) -> list[tuple[bool, str]] | None:
        """(passed, why not) of each program; None where programs are not run. Raises ConfigError as `box` does."""
        box = self.box() if programs else None
        if box is None:
            self._tell()
            return None
        keys = [hashlib.sha256(json.dumps(program).encode()).digest() for program in programs]
        new = {key: program for key, program in zip(keys, programs) if key not in self._known}
        if len(self._known) + len(new) > MOST_KNOWN:
            self._known, new = {}, dict(zip(keys, programs))
        for key, verdict in zip(new, box.run_all(list(new.values()))):
            self._known[key] = (verdict.passed, verdict.reason)
        return [self._known[key] for key in keys]

    def _tell(self) -> None:
        if self.refusal is not None and not self.is_told:
            print(f"tests are not run: {self.refusal}", file=sys.stderr)
            self.is_told = True

    def protections(self) -> dict[str, Any]:
        """What programs ran in, for the report."""
        return {} if self._box is None else {"sandbox": self._box.describe()}

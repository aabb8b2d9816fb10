"""Signals: SIGTERM, SIGINT and SIGUSR1 ask for a stop that loses nothing; a second one quits at once."""

from __future__ import annotations

import os
import signal
from types import FrameType

from llmtune.core.errors import Stopped

ASKING = ("SIGTERM", "SIGINT", "SIGUSR1")


class StopRequest:
    """Set by a signal; looked at between rows, micro-batches and evaluation batches."""

    def __init__(self) -> None:
        self.name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None

    def listen(self) -> StopRequest:
        """Install the handlers (main thread only)."""
        for name in ASKING:
            if hasattr(signal, name):  # SIGUSR1 is not known on Windows
                signal.signal(getattr(signal, name), self._on_signal)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            os._exit(128 + number)
        self.name = signal.Signals(number).name

    def check(self, while_doing: str) -> None:
        """Raise Stopped if a signal came before there was anything to save."""
        if self:
            raise Stopped(f"stopped by {self.name} while {while_doing}: nothing was trained yet, nothing is lost")

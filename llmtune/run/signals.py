"""Signals: SIGTERM, SIGINT and SIGUSR1 ask for a stop that loses nothing; a second one quits at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
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
        for number in _numbers():
            signal.signal(number, self._on_signal)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _numbers())  # those that `held_back` kept for a new process
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            os._exit(128 + number)
        self.name = signal.Signals(number).name

    def check(self, while_doing: str) -> None:
        """Raise Stopped if a signal came before there was anything to save."""
        if self:
            raise Stopped(f"stopped by {self.name} while {while_doing}: nothing was trained yet, nothing is lost")


def _numbers() -> list[signal.Signals]:
    return [getattr(signal, name) for name in ASKING if hasattr(signal, name)]  # SIGUSR1 is not known on Windows


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Processes started inside get no signal before they `listen`: one that came earlier waits for them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _numbers())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

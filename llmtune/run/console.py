"""What a run says: on the screen and in train.log, the same lines."""

from __future__ import annotations

from pathlib import Path


class Console:
    """Prints lines and keeps them; what was said before the run folder existed is written when it does."""

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet
        """other ranks than 0 say nothing"""
        self._log: Path | None = None
        self._early: list[str] = []

    def say(self, text: str = "") -> None:
        if not self.quiet:
            print(text, flush=True)
            self.note(text)

    def note(self, text: str) -> None:
        """Into the log only."""
        if self.quiet:
            return
        if self._log is None:
            self._early.append(text)
            return
        with self._log.open("a", encoding="utf-8") as log:
            log.write(text + "\n")

    def attach(self, path: Path) -> None:
        """Write to `path` from now on, what was said so far first."""
        self._log, early = path, self._early
        self._early = []
        for text in early:
            self.note(text)

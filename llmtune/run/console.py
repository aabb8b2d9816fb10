"""What a run says: on the screen and in train.log, the same lines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO


class Console:
    """Prints lines and keeps them; what was said before the run folder existed is written when it does."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False):
        self._stream = stream
        self._log: TextIO | None = None
        self._early: list[str] = []
        self.quiet = quiet
        """other ranks than 0 say nothing"""

    def say(self, text: str = "") -> None:
        if self.quiet:
            return
        print(text, file=self._stream or sys.stdout, flush=True)
        self.note(text)

    def note(self, text: str) -> None:
        """Into the log only."""
        if self.quiet:
            return
        if self._log is None:
            self._early.append(text)
        else:
            self._log.write(text + "\n")
            self._log.flush()

    def attach(self, path: Path) -> None:
        """Write to `path` from now on, what was said so far first."""
        if self.quiet:
            return
        self._log = path.open("a", encoding="utf-8")
        for text in self._early:
            self._log.write(text + "\n")
        self._early.clear()
        self._log.flush()

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

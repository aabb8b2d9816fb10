"""Processes that a run starts: what they find in their environment, and that they end when it does."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable


def environment(**values: str) -> dict[str, str]:
    """Ours and `values`, for `python -m`, which must not look for modules where `llmtune` does not: in this folder."""
    known = {**os.environ, **values}
    if os.getcwd() not in map(os.path.abspath, sys.path):
        known["PYTHONSAFEPATH"] = "1"
    return known


def follower() -> Callable[[], None]:
    """Called in a process: the kernel shall send it SIGTERM when its parent dies, be it by SIGKILL (Linux only)."""
    if sys.platform != "linux":
        return lambda: None
    library, set_death_signal = ctypes.CDLL(None), 1
    return lambda: library.prctl(set_death_signal, signal.SIGTERM) and None

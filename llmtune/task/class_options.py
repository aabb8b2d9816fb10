"""Options of a loss that are of classes alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from llmtune.core.errors import ConfigError, Fault

OFF = {"label_smoothing": 0.0, "class_weights": "none", "focal_gamma": 0.0}


def refuse_class_options(task: str, options: Any, but: Collection[str] = ()) -> None:
    """Raises ConfigError where the settings under `train`, `but` some, ask for what is for rows with classes."""
    faults = [
        Fault(f"train.{key}", f"set for task={task}", "this is for rows with classes", f"type train.{key}={off}")
        for key, off in OFF.items()
        if key not in but and getattr(options, key) != off
    ]
    if faults:
        raise ConfigError(*faults)

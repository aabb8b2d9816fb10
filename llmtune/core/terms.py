"""Which terms of the loss may be weighed and compared: what objectives declare of themselves is read here alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TINY = 1e-9
"""a loss that starts no higher can't be measured against its start"""

Kind = Callable[[Any], bool]
"""a question about the settings of an objective: `is_balanced` or `falls`"""


def is_balanced(settings: Any) -> bool:
    """Is it a loss, whose gradient may be set against others? Not so a distance of weights (`balanced = False`)."""
    return bool(getattr(settings, "balanced", True))


def falls(settings: Any) -> bool:
    """Is it a loss whose size tells something from the first step on?

    Not so one that is 0 as long as nothing has moved (`starts_at_zero = True`): it must rise before it can fall, and
    over a start that is rounding it would seem to have grown a thousandfold.
    """
    return is_balanced(settings) and not getattr(settings, "starts_at_zero", False)


def terms_of(parts: Any, kind: Kind) -> list[str]:
    """Names of the terms of this kind among the objectives that the user chose; an adapter's own terms are of none.

    `parts.network` is the Composite.
    """
    chosen = {name for name, settings in parts.config.objective.items() if kind(settings)}
    return [name for name in parts.network.objectives if name.split("/")[0] in chosen]


def num_terms(config: Any, kind: Kind) -> int:
    """The same number, from settings alone; some stand for several terms."""
    return sum(getattr(settings, "num_terms", 1) for settings in config.objective.values() if kind(settings))


def share_left(loss: float, start: float) -> float:
    """What is left of a loss that started above TINY: from 0 to 1. One that has risen counts as not fallen, because
    batches vary: a loss that was next to nothing in the first of them would else outweigh all others."""
    return min(1.0, max(0.0, loss) / start)

"""Which modules of a backbone an adapter goes to: what the user names, or what serves its family."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from llmtune.core.errors import ConfigError, Fault, ModelError, nearest

WHERE = "adapter.targets"


def check_targets(targets: Any) -> None:
    """Raises ValueError unless `targets` is `auto` or a list of names and regular expressions that can be read."""
    if isinstance(targets, str):
        if targets != "auto":
            raise ValueError(f"targets: {targets!r} was given; auto, or a list; targets=[{targets}]")
        return
    if not targets:
        raise ValueError("targets: an empty list; auto, or names of linear modules")
    for pattern in targets:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"targets: {pattern!r} is no regular expression ({error})") from None


def linear_targets(network: Any, targets: str | Sequence[str], roles: Collection[str] = ()) -> list[str]:
    """Full names of the linear modules that are meant, from the bottom to the top.

    Args:
        targets: `auto`, or names (`query`, `attention.self.query`, a full name) and regular expressions of full names.
        roles: with `auto`, only modules of these roles (model.projections); none given: all linear modules.
    Raises:
        ConfigError: one of `targets` matches nothing.
        ModelError: `auto` finds nothing in this family of models.
    """
    from llmtune.model.projections import linear_modules, role

    names = list(linear_modules(network, network.base_model_prefix))
    if isinstance(targets, str):
        chosen = [name for name in names if not roles or role(name) in roles]
        missing = sorted(set(roles) - {role(name) for name in chosen})
        if missing or not chosen:
            raise unknown_family(network, f"no linear modules known as {' or '.join(missing)}" if missing
                                 else "no linear modules in its layers")  # fmt: skip
        return chosen
    matches = {pattern: [name for name in names if _means(pattern, name)] for pattern in targets}
    idle = [pattern for pattern, found in matches.items() if not found]
    if idle:
        raise ConfigError(*(_no_match(pattern, names) for pattern in idle))
    meant = {name for found in matches.values() for name in found}
    return [name for name in names if name in meant]


def unknown_family(network: Any, given: str) -> ModelError:
    """The refusal of a family of models, by its name."""
    kind = network.config.model_type
    return ModelError(Fault("adapter", f"{kind} models have {given}", "an adapter that they can take", "adapter=lora"))


def _means(pattern: str, name: str) -> bool:
    return name == pattern or name.endswith(f".{pattern}") or re.fullmatch(pattern, name) is not None


def _no_match(pattern: str, names: Sequence[str]) -> Fault:
    last = [name.rsplit(".", 1)[-1] for name in names]
    near = nearest(pattern, dict.fromkeys([*last, *names]))
    known = ", ".join(dict.fromkeys(last))
    return Fault(WHERE, f"{pattern!r} is no linear module of the backbone", f"such as {known}",
                 f"did you mean '{near}'?" if near else "adapter.targets=auto")  # fmt: skip

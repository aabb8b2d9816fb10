"""Whether a run keeps what its frozen bottom puts out, and why: known before any weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtune.core.errors import ConfigError, Fault
from llmtune.data.cache import home_of
from llmtune.model.prefix import frozen_depth, lower_stack
from llmtune.model.prefix_store import allowed_bytes

LEAST_PASSES = 1.5
"""over the rows: below, too few rows are met twice"""
BYTES_A_NUMBER = 4
"""fp32; layers put out fewer in half precision"""


@dataclass(frozen=True)
class PrefixPlan:
    wanted: bool
    forced: bool
    """train.prefix_cache=on: kept whether it pays or not"""
    line: str
    """for the user"""

    def pays(self, passes: float) -> bool:
        """Is it worth filling if so many passes over the rows are to come at one depth?"""
        return self.forced or passes >= LEAST_PASSES

    def without(self, objectives: Collection[Any]) -> PrefixPlan:
        """This plan, or none where a built objective looks into the prefix, or none reads rows as they are."""
        views = {getattr(part, "view", "clean") for part in objectives if part.feed == "task"}
        why = _looks_inside(objectives)
        if why is None and objectives and "clean" not in views:
            why = "no objective reads the task's rows as they are"
        return PrefixPlan(False, False, f"prefix cache: off: {why}") if why and self.wanted else self


def _other_rows(splits: Mapping[str, Any]) -> str | None:
    if any("input_ids" not in rows.column_names for rows in splits.values()):
        return "blocks of text begin elsewhere in each epoch"
    if any("cuts" in rows.column_names for rows in splits.values()):
        return "rows of this task are several sequences (windows, or choices)"
    if any("recording" in rows.column_names for rows in splits.values()):
        return "rows of this task are recordings"
    if any("decoder_input_ids" in rows.column_names for rows in splits.values()):
        return "rows of this task have a second side, which the decoder reads"
    return None


def prefix_home(config: Any, log: Callable[[str], None]) -> Path:
    """The folder of all entries."""
    root = Path(config.data.cache_dir).expanduser() if config.data.cache_dir else None
    return home_of("prefix", root, log)


def plan_prefix(parts: Any, policy: Any, device: str, home: Path) -> PrefixPlan:
    """Decide for a run.

    Args:
        parts: core.parts.Parts; its network may be without weights.
        policy: the built freeze policy.
        home: the folder of all entries.

    Raises:
        ConfigError: train.prefix_cache=on, and it can't be.
    """
    config, asked = parts.config, parts.config.train.prefix_cache
    if asked == "off":
        return _off("train.prefix_cache=off")
    stack = len(lower_stack(parts.network))
    phases = _phases(parts, policy, stack)
    unknown = None if stack else "which modules the model's layers are is not known, or a layer is several modules"
    why = why_impossible(config) or _other_rows(parts.splits) or unknown or _never_frozen(config, policy, phases)
    if why is None:
        budget = allowed_bytes(config.train.prefix_cache_bytes, home)
        tokens = sum(int(rows.with_format("numpy")["length"][:].sum()) for rows in parts.splits.values())
        most = tokens * parts.network.config.hidden_size * BYTES_A_NUMBER
        if most > budget:
            why = f"it may take {most / 1e9:.2f} GB, {budget / 1e9:.2f} GB are allowed (train.prefix_cache_bytes)"
    if why is not None:
        if asked == "on":
            raise ConfigError(Fault("train.prefix_cache", f"on, but {why}", "auto or off", "train.prefix_cache=auto"))
        return _off(why)
    if asked == "auto" and device != "cpu":
        return _off(f"whether it pays on {device} was not measured; train.prefix_cache=on uses it")
    if asked == "auto" and config.hardware.deterministic:
        return _off("hardware.deterministic=true: a row's states differ by 1e-6 with the batch that it was first in")
    plan = PrefixPlan(True, asked == "on", "")
    room = f"; at most {most / 1e9:.2f} GB"
    frozen = [phase for phase in phases if phase[1]]
    if not frozen:
        return PrefixPlan(True, plan.forced, f"prefix cache: on as soon as the lowest layers are frozen{room}")
    if not any(plan.pays(passes) for _, _, passes in frozen):
        few = f"the bottom is frozen for fewer than {LEAST_PASSES} passes over the rows"
        return PrefixPlan(True, False, f"prefix cache: off: {few} (rows that an earlier run left are used)")
    where = ", ".join(
        f"{depth} of {stack} layers" + (f" from step {step}" if policy.changes else "") for step, depth, _ in frozen
    )
    return PrefixPlan(True, plan.forced, f"prefix cache: on: {where} are frozen from the bottom, their output is "
                      f"computed once per row{room}")  # fmt: skip


def why_impossible(config: Any) -> str | None:
    """What of a run's settings forbids it, whatever is frozen."""
    if config.hardware.compile:
        return "hardware.compile=true compiles the whole backbone"
    if config.train.packing:
        return "train.packing=true lays rows end to end, others with each other in every epoch"
    if getattr(config, "augmentation", None):
        return f"augmentation={','.join(config.augmentation)} changes the rows"
    return _looks_inside(config.objective.values())


def _looks_inside(objectives: Iterable[Any]) -> str | None:
    for part in objectives:
        if getattr(part, "perturbs", False):
            return f"objective {part.name} changes the embeddings of the rows"
        if getattr(part, "wants", ()):
            return f"objective {part.name} reads {' and '.join(part.wants)} of the layers below"
    return None


def _phases(parts: Any, policy: Any, stack: int) -> list[tuple[int, int, float]]:
    """(step, frozen layers from then on, passes over the rows until the next), as far as the policy is known."""
    steps = sorted({step for step in getattr(policy, "steps_of_change", (0,)) if step < parts.num_steps} | {0})
    return [
        (start, frozen_depth(parts.layers, policy.trainable(parts.layers, start), stack),
         (end - start) / parts.steps_per_epoch)
        for start, end in zip(steps, [*steps[1:], parts.num_steps])
    ]  # fmt: skip


def _never_frozen(config: Any, policy: Any, phases: list[tuple[int, int, float]]) -> str | None:
    foreseen = not policy.changes or hasattr(policy, "steps_of_change")
    if foreseen and not any(depth for _, depth, _ in phases):
        beside = f" with adapter={config.adapter.name}" if config.adapter.name != "none" else ""
        return f"freeze_policy={config.freeze_policy.name}{beside} never leaves embeddings and layer 0 both frozen"
    return None


def _off(why: str) -> PrefixPlan:
    return PrefixPlan(False, False, f"prefix cache: off: {why}")

"""What trains, in words: a table by place, and for a policy that changes what trains when."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmtune.reporting.words import count

MOST_PHASES = 6
"""a timeline of more shows its first ones and its last"""


def trains_lines(freezing: Any, groups: Iterable[Mapping[str, Any]], peak_lr: float, num_steps: int) -> list[str]:
    """The table at step 0, the timeline, and what may surprise: an adapter's base, tied tensors."""
    layers = freezing.layers
    lines = table_lines(freezing.table(groups, peak_lr))
    lines += timeline_lines(freezing.timeline(), [row[0] for row in freezing.counts()], num_steps)
    if freezing.policy.changes and not hasattr(freezing.policy, "steps_of_change"):
        lines.append("what trains may change with what is seen in training")
    if layers.adapters:
        lines.append("an adapter is in the model: the weights beneath stay as they are, the head trains with it")
    frozen = [name for name in layers.tied if name not in freezing.trainable]
    lines += [f"{layers.plain[name]} serves {layers.places[name]} and {layers.tied[name]}: frozen" for name in frozen]
    return lines


def table_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a place, neighbouring layers that are alike in one; the sum of all last."""
    shown = []
    for _, alike in itertools.groupby(rows, key=_likeness):
        group = list(alike)
        total, trained = (sum(row[key] for row in group) for key in ("parameters", "trainable"))
        rates = " to ".join(f"{rate:.3g}" for rate in dict.fromkeys([*group[0]["lr"][:1], *group[0]["lr"][-1:]]))
        (place,) = merged([row["place"] for row in group])
        shown.append((place, count(total), count(trained) if trained else "frozen", rates))
    total, trained = (sum(row[key] for row in rows) for key in ("parameters", "trainable"))
    share = f"{100 * trained / total:.3g} %" if total else ""
    shown.append(("together", count(total), count(trained) if trained else "frozen", share))
    width = max(len(row[0]) for row in shown)
    head = f"{'':{width}}  {'parameters':>10}  {'trained':>8}  peak lr"
    return [head, *(f"{row[0]:{width}}  {row[1]:>10}  {row[2]:>8}  {row[3]}".rstrip() for row in shown)]


def _likeness(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Equal for layers that share a line; every other place has one of its own."""
    is_layer = row["place"].startswith("layer ")
    return ("layer" if is_layer else row["place"], row["parameters"], row["trainable"], tuple(row["lr"]))


def timeline_lines(timeline: Sequence[Mapping[str, Any]], places: Sequence[str], num_steps: int) -> list[str]:
    """`from step 20 trains layer 5, head; ...`, and what the run ends too early for."""
    reached = [line for line in timeline if line["step"] < num_steps]
    if len(timeline) < 2:
        return []
    words = [f"from step {line['step']} {_words(line['places'], places)}{_at_rate(line)}" for line in reached]
    if len(words) > MOST_PHASES:
        words = [*words[: MOST_PHASES - 2], "...", words[-1]]
    lines = [f"trains {'; '.join(words)}"]
    if len(reached) < len(timeline):
        first = timeline[len(reached)]
        lines.append(
            f"the run ends with step {num_steps}, before what would train from step {first['step']} on: "
            f"{_words(first['places'], places)}"
        )
    return lines


def _at_rate(line: Mapping[str, Any]) -> str:
    factor = line.get("lr_factor", 1)
    return "" if factor == 1 else f" at {factor:g} times the learning rate"


def _words(trained: Sequence[str], places: Sequence[str]) -> str:
    return "everything" if set(trained) >= set(places) else ", ".join(merged(trained))


def merged(places: Sequence[str]) -> list[str]:
    """`layer 0`, `layer 1`, `layer 2`, `head` as `layers 0-2`, `head`."""
    words: list[str] = []
    numbers: list[int] = []
    for place in [*places, ""]:
        match = re.fullmatch(r"layer (\d+)", place)
        if numbers and (not match or int(match[1]) != numbers[-1] + 1):
            words.append(f"layer {numbers[0]}" if len(numbers) == 1 else f"layers {numbers[0]}-{numbers[-1]}")
            numbers = []
        if match:
            numbers.append(int(match[1]))
        elif place:
            words.append(place)
    return words

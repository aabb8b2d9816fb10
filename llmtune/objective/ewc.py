"""Weights that old texts need stay near their start (elastic weight consolidation; Kirkpatrick et al., 1612.00796)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from llmtune.core.errors import ConfigError, Fault, ModelError
from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import at_least, weight
from llmtune.core.schedules import weight_schedule

if TYPE_CHECKING:
    from llmtune.objective.starting_weights import Nearness


@dataclass(frozen=True, kw_only=True)
class Ewc:
    name: str
    weight: float | str
    rows: str | None
    sample_rows: int
    balanced: ClassVar[bool] = False
    """a distance keeps its own weight, whatever `balance` makes of losses"""

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        at_least("sample_rows", self.sample_rows, 1)

    def fingerprints(self) -> dict[str, str]:
        """The importances are found anew when a run goes on: from the same texts."""
        from llmtune.data.cache import file_sha

        return {} if self.rows is None else {f"rows of {self.name}": file_sha(Path(self.rows).expanduser())}

    def build(self, parts: Parts) -> Nearness:
        """Computes the importances: one forward and backward pass for each row of the sample, on the run's device."""
        from llmtune.hardware.machine import pick_device
        from llmtune.model.language_head import load_head
        from llmtune.objective.importance import importances, sampled_ids
        from llmtune.objective.starting_weights import Nearness, Starts, held_and_new

        began = time.perf_counter()
        network = parts.network.to(pick_device(parts.config.hardware))
        names = held_and_new(parts)[0]
        rows = sampled_ids(parts, self.rows, self.sample_rows)
        head = load_head(parts.config.model, network, seed=parts.config.seed)
        found = importances(network, head.to(next(network.parameters()).device), names, rows, parts)
        parts.console.say(
            f"ewc: what {len(rows)} rows of {self.rows or 'the training texts'} need was found in "
            f"{time.perf_counter() - began:.1f} s"
        )
        schedule = weight_schedule(self.weight, parts.num_steps)
        return Nearness(self.name, schedule, Starts(network, names), importances=found)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError or ModelError: no weights to hold, no trained language-model head, no such file."""
        from llmtune.model.language_head import head_is_there, language_kind
        from llmtune.objective.starting_weights import held_and_new, refuse_nothing_to_hold

        refuse_nothing_to_hold(prospect, self.name, held_and_new(prospect)[0])
        model, where = prospect.config.model, f"objective.{self.name}"
        if self.rows is not None and not Path(self.rows).expanduser().is_file():
            raise ConfigError(Fault(f"{where}.rows", f"no file {self.rows}", "a file of plain text, one text a line"))
        if language_kind(prospect.model_config) not in ("masked", "causal"):
            raise ModelError(
                Fault(where, f"{model.name} ({prospect.model_config.model_type}) has no language-model head that could "
                      "be used here", "an encoder or a decoder", "type objective=[supervised,l2_sp]")
            )  # fmt: skip
        if model.path is not None and not head_is_there(model, prospect.model_config):
            raise ModelError(
                Fault(where, f"the weights in {model.path} have no trained language-model head, by which the "
                      "importance of weights for old texts is measured", "", "type objective=[supervised,l2_sp]")
            )  # fmt: skip

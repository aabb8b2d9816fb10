"""Other labelled tasks beside the task: own rows, own head, one backbone (as MT-DNN, arXiv 1901.11504)."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from llmtune.config.fit import Misfit, fit
from llmtune.config.locate import option_files, search_dirs
from llmtune.config.settings import ColumnSettings, DataSettings
from llmtune.config.shelf import find_part
from llmtune.core.errors import ConfigError, Fault, ModelError, did_you_mean
from llmtune.core.parts import FeedWanted, Parts, Prospect
from llmtune.core.ranges import weight
from llmtune.core.schedules import weight_schedule

WHERE = "objective.auxiliary.tasks"
COLUMNS = typing.get_type_hints(ColumnSettings)
DATA = typing.get_type_hints(DataSettings)
NOT_ITS_OWN = ("name", "columns", "test", "test_share", "max_tokens", "cache_dir")
"""settings of data that a task beside has none of: it is scored on validation rows, and its rows go the run's way"""
FRESH = {"name": "files", "validation": None, "test": None, "test_share": 0.0, "label_names": None,
         "label_delimiter": None}  # fmt: skip
"""what is not taken over from the run's data"""


@dataclass(frozen=True, kw_only=True)
class Auxiliary:
    name: str
    weight: float | str
    tasks: dict[str, Any]
    PREFIX: ClassVar[str] = "auxiliary/"

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        if not self.tasks:
            raise ValueError(f"tasks: none is given; one or more by name; type {WHERE}='{{NAME: {{train: FILE}}}}'")
        for name, given in self.tasks.items():
            _check(name, given)

    @property
    def num_terms(self) -> int:
        return len(self.tasks)

    def feeds(self, config: Any) -> dict[str, FeedWanted]:
        """The rows of each task, whose reader is the task itself: it finds its labels in them."""
        return {
            f"{self.PREFIX}{name}": FeedWanted(
                data=_data_of(name, given, config.data), where=f"{WHERE}.{name}",
                reader=_task_of(name, given),
            )
            for name, given in self.tasks.items()
        }  # fmt: skip

    def check(self, prospect: Prospect) -> None:
        """Raises ModelError where the model's family has no head for a task."""
        from llmtune.model.task_head import task_head

        faults = []
        for name in self.tasks:
            task = prospect.feeds[f"{self.PREFIX}{name}"].reader
            try:
                task_head(prospect.network, task, seed=None)
            except ValueError as error:
                faults.append(
                    Fault(f"{WHERE}.{name}", f"no such head for {prospect.model_config.model_type} models",
                          str(error).split("\n")[0][:200])
                )  # fmt: skip
        if faults:
            raise ModelError(*faults)

    def build(self, parts: Parts) -> dict[str, Any]:
        """An objective for each task, named as its feed."""
        from llmtune.objective.head_loss import HeadLoss

        return {
            feed: HeadLoss(
                feed, weight_schedule(given.get("weight", self.weight), parts.num_steps), parts.network,
                parts.feeds[feed].reader, seed=parts.config.seed,
            )
            for feed, given in ((f"{self.PREFIX}{name}", given) for name, given in self.tasks.items())
        }  # fmt: skip


def _check(name: Any, given: Any) -> None:
    """Raises ValueError for a name that is none, keys that are unknown, values of another type."""
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"tasks: {name!r} was given as a name; letters, digits and _; such as {WHERE}='{{rte: ...}}'")
    where = f"tasks.{name}"
    if not isinstance(given, Mapping) or not given.get("train"):
        raise ValueError(f"{where}: {given!r} names no rows; a mapping with train; {{train: FILE, label: NAME}}")
    kinds = _kinds(name, given)
    for key, value in given.items():
        if key not in kinds:
            raise ValueError(f"{where}.{key}: unknown key; keys here: {', '.join(kinds)}; {did_you_mean(key, kinds)}")
        try:
            fit(value, kinds[key])
        except Misfit as misfit:
            raise ValueError(f"{where}.{key}: {value!r} was given; {misfit}") from misfit
    if "weight" in given:
        weight(f"{where}.weight", given["weight"])


def _kinds(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Key -> type, of all keys that a task beside may have."""
    data = {key: kind for key, kind in DATA.items() if key not in NOT_ITS_OWN}
    fields = {key: kind for key, kind in _part_of(name, given).fields.items() if key not in ("name", "kind")}
    return {"kind": str, "weight": float | str, **COLUMNS, **data, **fields}


def _part_of(name: str, given: Mapping[str, Any]) -> Any:
    return find_part("task", given.get("kind", "classification"), (), f"{WHERE}.{name}.kind")


def _data_of(name: str, given: Mapping[str, Any], run: DataSettings) -> DataSettings:
    """The run's data settings with those of a task beside in their place."""
    columns = ColumnSettings(**{key: given.get(key) for key in COLUMNS})
    own = {key: fit(given[key], kind) for key, kind in DATA.items() if key in given}
    try:
        return dataclasses.replace(run, **{**FRESH, **own, "columns": columns})
    except ValueError as error:
        raise ConfigError(f"{WHERE}.{name}.{error}") from error


def _task_of(name: str, given: Mapping[str, Any]) -> Any:
    """The task, its settings as its kind ships with where they are not given."""
    part = _part_of(name, given)
    shipped = _shipped(given.get("kind", "classification"))
    values = {key: fit(given.get(key, shipped.get(key)), kind) for key, kind in part.fields.items()}
    try:
        return part.load()(**{**values, "name": name}).build()
    except ValueError as error:
        raise ConfigError(f"{WHERE}.{name}.{error}") from error


def _shipped(kind: str) -> dict[str, Any]:
    """The `task` section of the recipe that is called as the kind, else of any recipe of that kind."""
    files = option_files("task", search_dirs())
    for path in [*(files[name] for name in files if name == kind), *files.values()]:
        with open(path, encoding="utf-8") as file:
            section = yaml.safe_load(file).get("task", {})
        if section.get("kind") == kind:
            return section
    return {}

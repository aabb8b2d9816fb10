"""The tasks beside a run's task as a user gives them: a mapping by name, a YAML file of it, or the shipped ones."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from llmtune.config.fit import Misfit, fit
from llmtune.config.locate import option_files, search_dirs
from llmtune.config.settings import ColumnSettings, DataSettings
from llmtune.config.shelf import find_part
from llmtune.core.errors import ConfigError, Fault, did_you_mean
from llmtune.core.ranges import weight

WHERE = "objective.auxiliary.tasks"
BUILTIN = "builtin"
COLUMNS = typing.get_type_hints(ColumnSettings)
DATA = typing.get_type_hints(DataSettings)
NOT_ITS_OWN = ("name", "columns", "max_tokens", "cache_dir")
"""settings of data that a task beside has none of: its rows go the run's way"""
FRESH = {"name": "files", "validation": None, "test": None, "test_share": 0.0, "label_names": None,
         "label_delimiter": None}  # fmt: skip
"""what is not taken over from the run's data"""


def check_tasks(tasks: Any) -> None:
    """Raises ValueError for names that are none, keys that are unknown, values of another type. Opens no file."""
    if isinstance(tasks, str):
        if not tasks or (tasks != BUILTIN and not tasks.endswith((".yaml", ".yml"))):
            raise ValueError(f"tasks: {tasks!r} was given; a mapping, a YAML file of one, or {BUILTIN}; "
                             f"{WHERE}=FILE.yaml")  # fmt: skip
        return
    if not tasks:
        raise ValueError(f"tasks: none is given; one or more by name; type {WHERE}='{{NAME: {{train: FILE}}}}'")
    for name, given in tasks.items():
        _check(name, given)


def tasks_of(tasks: Any, run: DataSettings | None = None) -> dict[str, Any]:
    """Name -> settings, out of the file that has them.

    Args:
        run: the run's own rows, which are shipped ones too where the shipped tasks are to stand beside them.

    Raises:
        ConfigError: there is no such file, or what it holds is wrong.
    """
    if not isinstance(tasks, str):
        return tasks
    if tasks == BUILTIN:
        if run is not None and not str(run.train).startswith("builtin:"):
            raise ConfigError(
                Fault(WHERE, f"none are given; {BUILTIN} ones stand beside shipped rows, not beside {run.train}",
                      "one or more by name, or a YAML file of them", f"{WHERE}='{{NAME: {{train: FILE}}}}'")
            )  # fmt: skip
        text = (resources.files("llmtune") / "samples" / "tasks.yaml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(tasks).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            fault = Fault(WHERE, f"{tasks} can't be read: {error}", "a YAML file of tasks by name")
            raise ConfigError(fault) from error
    try:
        found = yaml.safe_load(text)
        if not isinstance(found, dict):
            raise ValueError("it holds no tasks by name, such as `rte: {train: FILE, label: NAME}`")
        check_tasks(found)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(Fault(WHERE, f"{tasks}: {str(error).splitlines()[0]}")) from error
    return found


def _check(name: Any, given: Any) -> None:
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


def data_of(name: str, given: Mapping[str, Any], run: DataSettings) -> DataSettings:
    """The run's data settings with those of a task beside in their place; what is done with long rows is the kind's."""
    columns = ColumnSettings(**{key: given.get(key) for key in COLUMNS})
    recipe = _recipe(given.get("kind", "classification")).get("data", {})
    own = {"on_overlength": recipe.get("on_overlength", "truncate")}
    own |= {key: fit(given[key], kind) for key, kind in DATA.items() if key in given}
    try:
        return dataclasses.replace(run, **{**FRESH, **own, "columns": columns})
    except ValueError as error:
        raise ConfigError(f"{WHERE}.{name}.{error}") from error


def task_of(name: str, given: Mapping[str, Any]) -> Any:
    """The task, its settings as its kind ships with where they are not given."""
    part = _part_of(name, given)
    shipped = _recipe(given.get("kind", "classification")).get("task", {})
    values = {key: fit(given.get(key, shipped.get(key)), kind) for key, kind in part.fields.items()}
    try:
        return part.load()(**{**values, "name": name}).build()
    except ValueError as error:
        raise ConfigError(f"{WHERE}.{name}.{error}") from error


def _recipe(kind: str) -> dict[str, Any]:
    """The recipe that is called as the kind, else any recipe of that kind; empty where none ships."""
    files = option_files("task", search_dirs())
    for path in [*(files[name] for name in files if name == kind), *files.values()]:
        with open(path, encoding="utf-8") as file:
            recipe = yaml.safe_load(file)
        if recipe.get("task", {}).get("kind") == kind:
            return recipe
    return {}

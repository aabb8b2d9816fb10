"""From a folder that the user names to a trained model and the settings that it was trained with."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llmtune.config.check import checked
from llmtune.config.compose import composed
from llmtune.config.locate import conf_dir, option_files
from llmtune.config.origin import Origin
from llmtune.config.settings import Config
from llmtune.config.stored import load_config
from llmtune.config.typed import Setting
from llmtune.core.errors import ConfigError, DataError, Fault, ModelError, nearest
from llmtune.data.roles import Role
from llmtune.inference.model_folder import CARD, read_card
from llmtune.run.rundir import RunDir

SECTIONS = ("data", "hardware")
"""what may be set when a trained model is used; the rest was settled by training"""
HERE = {"device": "auto", "precision": "fp32", "processes": 1, "threads": "auto", "compile": False}
"""the machine that trained may be another one, so its device is not asked for here"""


@dataclass(frozen=True)
class ModelPlace:
    model: Path
    """the folder with llmtune.json"""
    run: Path | None
    """the run folder around it, where there is one"""
    card: Mapping[str, Any]
    """llmtune.json"""


def find_model(given: str) -> ModelPlace:
    """The model of a run folder, or of its `model/` (or a copy of that).

    Raises:
        ModelError: there is no folder, no model in it, or one of another format.
    """
    folder = Path(given).expanduser()
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "there is no such folder"
        raise ModelError(Fault(given, what, "a run folder, or the model/ of one", _newest(folder.parent)))
    if (folder / CARD).is_file():
        parent = folder.absolute().parent
        is_run = folder.absolute().name == "model" and (parent / "config.yaml").is_file()
        return ModelPlace(folder, folder.parent if is_run else None, read_card(folder))
    if (folder / "model" / CARD).is_file():
        return ModelPlace(folder / "model", folder, read_card(folder / "model"))
    status = RunDir(folder).status
    if status is not None:
        fix = f"llmtune train with the same words and resume={given} goes on with it"
        raise ModelError(Fault(given, f"this run has no model/ yet (its status: {status})", "a finished run", fix))
    raise ModelError(Fault(given, "holds no model of llmtune", "a run folder, or the model/ of one", _newest(folder)))


def _newest(folder: Path) -> str:
    """The newest run below `folder`, as a hint."""
    found = [path for depth in range(1, 5) for path in folder.glob("/".join(["*"] * depth) + f"/model/{CARD}")]
    if not found:
        return ""
    return f"the newest one near: {max(found, key=lambda path: path.stat().st_mtime).parent.parent}"


def settings_of(
    place: ModelPlace, typed: Sequence[Setting], extra: Sequence[str] = (), idle: Sequence[str] = ()
) -> Config:
    """The config of the run, on this machine, with what was typed; of a bare model folder, the shipped one.

    Args:
        extra: keys that the word takes besides, for the message only.
        idle: keys that would change nothing; refused, so that nobody believes they did.
    Raises:
        ConfigError: all faults, keys outside of `data` and `hardware` among them, and of `task` those that do not say
            how a trained model answers.
    """
    faults: list[Fault | str] = []
    if place.run is not None:
        tree = dataclasses.asdict(load_config(place.run))
    else:
        tree = dataclasses.asdict(checked(composed(["data=files"]).cfg))
        tree["data"] |= place.card["data"]
        tree["data"]["columns"] |= place.card["columns"]
    tree["hardware"] |= HERE
    tree["task"] = _task_settings(place)
    asks_task = any(setting.key.startswith("task.") for setting in typed)
    changeable = trained_task(place, tree["run"]["plugins"]).changeable if asks_task else ()
    for setting in typed:
        fault = _refused(setting, extra, changeable) or _laid(setting, tree)
        if setting.key in idle:
            fault = Fault(setting.key, "has no say here: every row is read, and cut to what the model takes")
        faults += [fault] if fault else []
    return checked(tree, Origin((), typed), faults)


def _refused(setting: Setting, extra: Sequence[str], changeable: Sequence[str] = ()) -> Fault | None:
    """`changeable`: settings of the task that may be set."""
    section, dot, key = setting.key.partition(".")
    if setting.sign:
        return Fault(f"{setting.sign}{setting.line}", "a setting needs no sign", "", f"type {setting.line}")
    own = [f"task.{name}" for name in changeable]
    allowed = ", ".join([*(f"{name}.KEY" for name in SECTIONS), *own, *extra])
    if section == "task" and key in changeable:
        return None
    if section not in SECTIONS:
        near = nearest(setting.key, [*extra, *own, *SECTIONS])
        return Fault(setting.key, "can't be set for a trained model", f"allowed: {allowed}",
                     f"did you mean '{near}'?" if near else "")  # fmt: skip
    if not dot:
        return Fault(setting.key, "no options are chosen here", f"allowed: {allowed}", f"such as {section}.KEY=VALUE")
    if setting.key == "hardware.processes":
        return Fault(setting.key, f"{setting.text} was given", "a trained model is used in one process")
    if setting.key.endswith(".name"):
        return Fault(setting.key, "is chosen with the option, not set", f"allowed: {allowed}")
    return None


def _laid(setting: Setting, tree: dict[str, Any]) -> Fault | None:
    """Put a value into the tree; whether the key is known is for the check to say."""
    node: Any = tree
    *path, last = setting.key.split(".")
    for name in path:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            return Fault(setting.key, f"{name} is no section", "", "")
    node[last] = setting.value
    return None


@contextlib.contextmanager
def naming_columns() -> Iterator[None]:
    """A fault about a column that was only ever named in training says what to type for the file at hand."""
    try:
        yield
    except DataError as error:
        faults = [
            dataclasses.replace(fault, fix=f"type {fault.where}=NAME")
            if isinstance(fault, Fault) and fault.where.startswith("data.columns.") and not fault.fix
            else fault
            for fault in error.faults
        ]
        raise DataError(*faults) from error


def trained_task(place: ModelPlace, plugins: Sequence[str], settings: Any = None) -> Any:
    """The task that the model was trained for, its labels included. Raises ConfigError.

    settings: of the task, where something of them was changed since.
    """
    from llmtune.config.shelf import find_part

    kept = place.card["task"]
    part = find_part("task", kept["kind"], plugins, os.fspath(place.model / CARD))
    try:
        task = (part.load()(**_task_settings(place)) if settings is None else settings).build()
    except (TypeError, ValueError) as error:
        raise ConfigError(Fault(os.fspath(place.model / CARD), f"its task can't be made: {error}")) from error
    task.restore(kept["state"])
    if not hasattr(task, "changeable"):
        task.changeable = ()
    return task


def _task_settings(place: ModelPlace) -> dict[str, Any]:
    """Those that the model was trained with, and for keys that are newer than it those of today."""
    kept = place.card["task"]["settings"]
    return {**_settings_of_today(kept["name"]), **kept}


def _settings_of_today(name: str) -> dict[str, Any]:
    """Of a shipped task; for keys that are newer than a model. Empty for a task that does not ship."""
    file = option_files("task", [conf_dir()]).get(name)
    if file is None:
        return {}
    with open(file, encoding="utf-8") as stream:
        return yaml.safe_load(stream)["task"]


def roles_of(task: Any, columns: Mapping[str, Any]) -> list[Role]:
    """The roles that rows of a trained model need: those that its training rows had, by llmtune.json's `columns`.

    Where one role may stand for another, rows may have either, whatever the training rows had; and what a row of the
    task may be without, it may be without here.
    """
    free = {role.unless for role in task.roles} | {role.name for role in task.roles if role.unless or role.sparse}
    return [
        role if role.name in free else dataclasses.replace(role, required=True)
        for role in task.roles
        if role.name in columns or role.name in free
    ]

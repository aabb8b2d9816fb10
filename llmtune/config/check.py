"""Hold a composed config against what it names: keys, types, ranges. All faults come at once.

The tree is described by `settings.Config`: a field that is a dataclass has one schema for all options (data, model,
hardware); a field `Any` holds a part of a shelf, `dict[str, Any]` several parts.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmtune.config.elsewhere import KEYS
from llmtune.config.fit import Misfit, expected, fit, members
from llmtune.config.origin import Origin
from llmtune.config.settings import Config
from llmtune.config.shelf import Part, find_part, source_file
from llmtune.config.shipped import good_value, options_with
from llmtune.config.tree import leaves
from llmtune.config.typed import to_text
from llmtune.core.errors import ConfigError, Fault, nearest

FIELDS = typing.get_type_hints(Config)


def checked(cfg: Any, origin: Origin | None = None, faults: Iterable[Fault | str] = ()) -> Config:
    """The config as dataclasses. Raises ConfigError with every fault, those found before (`faults`) included.

    `cfg`: DictConfig or plain dict, without Hydra's own node. Parts whose modules load torch are imported last,
    and only if nothing was wrong so far.
    """
    check = Check(cfg, origin, faults)
    check.finish()
    return check.build()


@dataclass(frozen=True)
class Waiting:
    """A part that is right as far as its source tells; its ranges are checked when its module is imported."""

    part: Part
    path: str
    values: dict[str, Any]


class Check:
    """One pass over a config, importing nothing heavy: `faults` holds what is wrong, `build()` does the rest."""

    def __init__(self, cfg: Any, origin: Origin | None = None, faults: Iterable[Fault | str] = ()):
        self.origin = origin or Origin()
        self.faults: list[Fault | str] = list(faults)
        self.tree = self._resolved(cfg)
        self.known = [key for key, _ in leaves(self.tree) if key.split(".")[0] in FIELDS]
        self.plugins = self._plugins()
        self.values = self._root()

    def finish(self) -> None:
        if self.faults:
            raise ConfigError(*self.faults)

    def build(self) -> Config:
        """Import the parts that wait and put all together. Raises ConfigError."""
        values = {name: self._imported(value) for name, value in self.values.items()}
        self.finish()
        return Config(**values)

    # -- the tree ---------------------------------------------------------------------------------------------------

    def _root(self) -> dict[str, Any]:
        self._unknown(self.tree, FIELDS, "")
        values: dict[str, Any] = {}
        for name, kind in FIELDS.items():
            if name not in self.tree:
                self.faults.append(Fault(name, "is missing", "", f"type {name}=..."))
            elif kind is Any:
                values[name] = self._part(name, self.tree[name])
            elif kind == dict[str, Any]:
                values[name] = self._parts(name, self.tree[name])
            else:
                values[name] = self._value(name, kind, self.tree[name])
        if len(values) == len(FIELDS):
            self._made(Config, "", values)
        return values

    def _parts(self, path: str, node: Any) -> dict[str, Any]:
        if isinstance(node, dict):
            return {name: self._part(f"{path}.{name}", part) for name, part in node.items()}
        self._misfit(path, node, "must hold parts", f"type {path}=[NAME]")
        return {path: None}

    def _part(self, path: str, node: Any) -> Any:
        """The settings of a part: made if importing its module is quick, else Waiting."""
        word = "kind" if isinstance(node, dict) and "kind" in node else "name"
        if not isinstance(node, dict) or word not in node:
            self._unnamed(path, node)
            return None
        key = f"{path}.{word}"
        try:
            part = find_part(path.split(".")[0], node[word], self.plugins, key, self.origin.note(key))
            values = self._section(path, part.fields, node)
            return self._made(part.load(), path, values) if part.light else Waiting(part, path, values)
        except ConfigError as error:
            self.faults += error.faults
            return None

    def _section(self, path: str, kinds: Mapping[str, Any], node: dict[str, Any]) -> dict[str, Any]:
        """A value for each field. Where one is at fault, the shipped one stands in, so that the rest can be checked."""
        self._unknown(node, kinds, path)
        values = {}
        for name, kind in kinds.items():
            key = f"{path}.{name}"
            values[name] = self._value(key, kind, node[name]) if name in node else self._missing(key)
        return values

    def _value(self, path: str, kind: Any, value: Any) -> Any:
        section = next((choice for choice in members(kind) if dataclasses.is_dataclass(choice)), None)
        if section is not None and isinstance(value, dict):
            return self._made(section, path, self._section(path, typing.get_type_hints(section), value))
        if value == "???":
            note = self.origin.note(path)
            self.faults.append(Fault(path, f"is required{note}", f"must be {expected(kind)}", f"type {path}=..."))
            return good_value(path, value)
        try:
            return fit(value, kind)
        except Misfit as misfit:
            setting = self.origin.setting(path)
            is_scalar = isinstance(value, (bool, int, float))
            if is_scalar and str in members(kind) and setting and (setting.key, setting.source) == (path, "typed"):
                # typed run.name=2024: the spelling is known, so nothing is lost
                return str(value) if "${" in setting.text else setting.text
            kinds = members(kind)
            lists = any(typing.get_origin(choice) is list for choice in kinds)
            items = value if isinstance(value, list) and lists else [value]
            lost = "text" in str(misfit) and any(isinstance(item, (bool, int, float)) for item in items)
            fix = "put it in quotes, else it reads as a number, true or false" if lost else ""
            if isinstance(value, list) and not lists and (float in kinds or str not in kinds):
                fix = "-m tries several values"
            self._misfit(path, value, str(misfit), fix)
            return good_value(path, value)

    # -- the dataclasses --------------------------------------------------------------------------------------------

    def _made(self, kind: Any, path: str, values: dict[str, Any]) -> Any:
        """`kind(**values)`, or None with its faults noted.

        A class stops at its first fault: the value at fault gives way to the shipped one until no more is said.
        """
        told: set[str] = set()
        while True:
            try:
                made = kind(**values)
            except ValueError as error:
                field, _, words = str(error).partition(": ")
                if field in told:
                    return None
                told.add(field)
                key = f"{path}.{field}" if path else field
                given, _, rest = words.partition("; ")
                allowed, _, fix = rest.partition("; ")
                allowed += _or_number(kind, field, values.get(field), allowed)
                fix = fix or _several(values.get(field))
                self.faults.append(Fault(key, given + self.origin.note(key), allowed, fix))
                values = {**values, field: good_value(key, values.get(field))}
                if field not in values or not path:
                    return None
            except TypeError:  # a value at fault, already told of, for which no shipped one was found
                if not self.faults:
                    raise
                return None
            else:
                return None if told else made

    def _imported(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._imported(part) for name, part in value.items()}
        if not isinstance(value, Waiting):
            return value
        try:
            return self._made(value.part.load(), value.path, value.values)
        except ConfigError as error:
            self.faults += error.faults
            return None

    # -- faults -----------------------------------------------------------------------------------------------------

    def _resolved(self, cfg: Any) -> dict[str, Any]:
        """The plain tree with interpolations filled in; one that can't be filled in is a fault."""
        from omegaconf import DictConfig, OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        if not isinstance(cfg, DictConfig):
            return dict(cfg)
        try:
            tree = typing.cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
            for key, value in leaves(tree):
                if isinstance(value, str) and "${" in value:
                    given = f"{value!r} was given{self.origin.note(key)}"
                    self.faults.append(Fault(key, given, "must not hold ${, which a stored config could not keep"))
            return tree
        except OmegaConfBaseException:
            tree = typing.cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=False))
        for key, value in leaves(tree):
            if isinstance(value, str) and "${" in value:
                try:
                    OmegaConf.select(cfg, key)
                except OmegaConfBaseException as error:
                    note, words = self.origin.note(key), str(error).splitlines()[0]
                    self.faults.append(Fault(key, f"{value!r} can't be filled in{note}", words))
        return tree

    def _plugins(self) -> list[str]:
        """Packages that may bring parts, those that are there."""
        run = self.tree.get("run")
        names = run.get("plugins") if isinstance(run, dict) else None
        there = []
        for name in names if isinstance(names, list) else []:
            if isinstance(name, str) and name.isidentifier() and source_file(f"{name}.__init__"):
                there.append(name)
            elif isinstance(name, str):
                note = self.origin.note("run.plugins")
                given = f"there is no package '{name}'{note}"
                self.faults.append(Fault("run.plugins", given, "must be installed beside llmtune"))
        return there

    def _unknown(self, node: dict[str, Any], known: Iterable[str], path: str) -> None:
        for name in node:
            if name in known:
                continue
            for key, _ in leaves(node[name], f"{path}.{name}" if path else str(name)):
                owners = options_with(path, str(name)) if path and "." not in path else []
                if owners:
                    given, here = f"no setting of {path}={node.get('name')}", f"keys here: {', '.join(known)}"
                    hint = f"of {path}={', '.join(owners)}"
                else:
                    meant = self._meant(key, list(known), path)
                    given, here = "unknown key", "" if meant else f"keys here: {', '.join(known)}"
                    hint = f"did you mean '{meant}'?" if meant else ""
                self.faults.append(Fault(key, f"{given}{self.origin.note(key)}", here, hint))

    def _meant(self, key: str, known: list[str], path: str) -> str | None:
        """The key most likely meant: one elsewhere that is called so, one here with a like name, or one elsewhere."""
        name = key.rpartition(".")[2]
        others = [
            other
            for other in self.known
            if not other.rpartition(".")[2].isdigit() and not f"{other}.".startswith(f"{key}.")
        ]
        others.sort(key=lambda other: (other.count("."), other))
        tails = {other.rpartition(".")[2]: other for other in reversed(others)}
        if name in tails:
            return tails[name]
        if KEYS.get(name) in self.known:
            return KEYS[name]
        first = key[len(path) + 1 :].split(".")[0] if path else key.split(".")[0]
        near = nearest(first, known) if len(first) > 1 else None
        if near:
            return f"{path}.{near}" if path else near
        far = nearest(name, [tail for tail in tails if len(tail) > 2]) if len(name) > 1 else None
        return tails[far] if far else None

    def _unnamed(self, path: str, node: Any) -> None:
        """Note that a section has settings of a part, but none is chosen there."""
        group, _, name = path.partition(".")
        if not name or not isinstance(node, dict):
            self._misfit(path, node, "must be a section that names its part", f"type {group}=NAME")
            return
        chosen = [other for other, part in self.tree[group].items() if isinstance(part, dict) and "name" in part]
        given = f"{', '.join(map(str, node))} given{self.origin.note(path)}, but {name} is not chosen"
        self.faults.append(Fault(path, given, "", f"type {group}=[{','.join([*chosen, name])}]"))

    def _missing(self, key: str) -> Any:
        """Note that a section lacks a key; the shipped value, to go on with."""
        path, _, name = key.rpartition(".")
        shipped = good_value(key, None)
        given = f"is missing{self.origin.note(f'{path}.name')}"
        fix = f"add {name}: {to_text(shipped)}, or take the rest from another option with  defaults: [OPTION, _self_]"
        if self.origin.place(path) == "typed":
            fix = f"type {key}={to_text(shipped)}"
        self.faults.append(Fault(key, given, "a section has all its keys", fix))
        return shipped

    def _misfit(self, path: str, value: Any, allowed: str, fix: str = "") -> None:
        given = repr(value) if isinstance(value, str) else to_text(value)
        fix = fix or _several(value)
        self.faults.append(Fault(path, f"{given} was given{self.origin.note(path)}", allowed, fix))


def _several(value: Any) -> str:
    return "-m tries several values" if isinstance(value, str) and "," in value else ""


def _or_number(kind: type, field: str, value: Any, allowed: str) -> str:
    """The rest of `allowed: auto` where a number would do as well as the words."""
    if not isinstance(value, str) or not allowed.startswith("allowed: "):
        return ""
    numbers = [choice for choice in members(typing.get_type_hints(kind).get(field)) if choice in (int, float)]
    return f", or {expected(numbers[0])}" if numbers else ""

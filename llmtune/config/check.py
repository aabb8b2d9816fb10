"""Hold a composed config against what it names: keys, types, ranges. All faults come at once.

The tree is described by `settings.Config`: a field that is a dataclass has one schema for all options (data, model,
hardware); a field `Any` holds a part of a shelf, `dict[str, Any]` several parts.
"""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmtune.config.fit import Misfit, expected, fit, members
from llmtune.config.locate import conf_dir
from llmtune.config.origin import Origin
from llmtune.config.settings import Config
from llmtune.config.shelf import Part, find_part, source_file
from llmtune.core.errors import ConfigError, Fault, nearest

SECRET = re.compile(r"secret|passw|api_?key|credential|(?<!pad_)(?<!eos_)(?<!bos_)(?<!unk_)(?<!sep_)(?<!cls_)(?<!mask_)token(?![si])")
HIDDEN = "***"


def checked(cfg: Any, origin: Origin | None = None, faults: Iterable[Fault] = ()) -> Config:
    """The config as dataclasses. Raises ConfigError with every fault, those found before (`faults`) included.

    `cfg`: DictConfig or plain dict, without the node `hydra`. Parts whose modules load torch are imported last, and
    only if nothing was wrong so far.
    """
    check = Check(cfg, origin, faults)
    check.finish()
    config = check.build()
    check.finish()
    return typing.cast(Config, config)


def load_config(path: str | os.PathLike[str]) -> Config:
    """The checked config of a run folder, or of its `config.yaml`. Hydra has no part in it; `${` is refused.

    Raises ConfigError.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from llmtune.config.origin import Layer
    from llmtune.config.typed import yaml_words

    file = os.path.join(path, "config.yaml") if os.path.isdir(path) else os.fspath(path)
    try:
        with open(file, encoding="utf-8") as text:
            content = OmegaConf.to_container(OmegaConf.create(text.read()), resolve=False)
    except OSError as error:
        raise ConfigError(Fault(file, f"can't be read: {error.strerror}", "", "give the folder of a run")) from error
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(Fault(file, yaml_words(error))) from error
    if not isinstance(content, dict):
        raise ConfigError(Fault(file, "holds no config"))
    foreign = [
        Fault(f"{file}: {key}", f"holds an interpolation, {value!r}", "a stored config holds plain values only")
        for key, value in leaves(content)
        if isinstance(value, str) and "${" in value
    ]
    if foreign:
        raise ConfigError(*foreign)
    return checked(content, Origin([Layer(file, "")]))


def plain(config: Config) -> dict[str, Any]:
    """The whole config as plain dicts and lists, secrets hidden: what `config.yaml` of a run folder holds."""
    return redacted(dataclasses.asdict(config))


def redacted(content: dict[str, Any]) -> dict[str, Any]:
    """A copy in which texts under keys such as `token`, `secret`, `password`, `api_key` are hidden."""

    def copy(node: Any, hide: bool) -> Any:
        if isinstance(node, Mapping):
            return {key: copy(value, hide or is_secret(str(key))) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            return [copy(value, hide) for value in node]
        return HIDDEN if hide and isinstance(node, str) else node

    return typing.cast("dict[str, Any]", copy(content, False))


def redacted_line(line: str) -> str:
    """A typed `key=value` with the value hidden if the key names a secret."""
    key, sign, _ = line.partition("=")
    return f"{key}={HIDDEN}" if sign and is_secret(key.rpartition(".")[2]) else line


def is_secret(key: str) -> bool:
    return bool(SECRET.search(key.lower())) and not key.endswith(("_id", "_ids"))


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`(dotted key, value)` of everything that is no mapping with keys; items of lists by their number."""
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, Mapping):
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    if not children or (isinstance(node, (Mapping, list, tuple)) and not len(node)):
        yield prefix, node
    for key, value in children:
        yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))


class Check:
    """One pass over one config. `values` is the coerced tree; `faults` grows; `build()` makes the dataclasses."""

    def __init__(self, cfg: Any, origin: Origin | None = None, faults: Iterable[Fault] = ()):
        self.origin = origin or Origin()
        self.faults = list(faults)
        self.values: dict[str, Any] = {}
        self.made: dict[str, Any] = {}
        self.heavy: list[tuple[str, Part]] = []
        self.tree = self._resolved(cfg)
        self.known = {key for key, _ in leaves(self.tree)}
        plugins = (self.tree.get("run") or {}).get("plugins") if isinstance(self.tree.get("run"), dict) else None
        self.plugins = [name for name in plugins if isinstance(name, str)] if isinstance(plugins, list) else []
        self._check_plugins()
        self._check_tree()

    def finish(self) -> None:
        if self.faults:
            raise ConfigError(*self.faults)

    def build(self) -> Config | None:
        """Import what is heavy and put all together. Call it only when there are no faults."""
        for path, part in self.heavy:
            try:
                self._make(part.load(), path, self._at(self.values, path))
            except ConfigError as error:
                self.faults += error.faults
        if self.faults:
            return None
        kinds = typing.get_type_hints(Config)
        return self._construct(Config, "", {field: self._whole(field, kind) for field, kind in kinds.items()})

    # -- the tree ---------------------------------------------------------------------------------------------------

    def _check_tree(self) -> None:
        kinds = typing.get_type_hints(Config)
        self._unknown(self.tree, list(kinds), "")
        for field, kind in kinds.items():
            if field not in self.tree:
                self.faults.append(self._missing(field))
            elif kind is Any:
                self.values[field] = self._part(field, self.tree[field])
            elif kind == dict[str, Any]:
                self.values[field] = self._parts(field, self.tree[field])
            else:
                self.values[field] = self._value(field, kind, self.tree[field])
        if not self.faults and "seed" in self.values:
            self._construct(Config, "", {field: self.values.get(field) for field in kinds})

    def _parts(self, path: str, node: Any) -> dict[str, Any]:
        if not isinstance(node, dict):
            self._misfit(path, node, "must be chosen", f"type {path}=[NAME]")
            return {}
        return {name: self._part(f"{path}.{name}", part) for name, part in node.items()}

    def _part(self, path: str, node: Any) -> Any:
        """A node that names a part: its keys and types by the part's source, its ranges now if importing it is quick."""
        group = path.split(".")[0]
        word = "kind" if isinstance(node, dict) and "kind" in node else "name"
        if not isinstance(node, dict) or word not in node:
            self._misfit(path, node, "must be a section that names its part", f"type {group}=NAME")
            return node
        try:
            note = self.origin.note(f"{path}.{word}")
            part = find_part(group, node[word], self.plugins, f"{path}.{word}", note)
        except ConfigError as error:
            self.faults += error.faults
            return node
        before = len(self.faults)
        values = self._section(path, part.fields, node)
        if len(self.faults) == before:
            if part.light:
                self._make(part.load(), path, values)
            else:
                self.heavy.append((path, part))
        return values

    def _value(self, path: str, kind: Any, value: Any) -> Any:
        section = next((choice for choice in members(kind) if dataclasses.is_dataclass(choice)), None)
        if section is not None and isinstance(value, dict):
            before = len(self.faults)
            values = self._section(path, typing.get_type_hints(section), value)
            if len(self.faults) == before:
                self._make(typing.cast(type, section), path, values)
            return values
        if value == "???":
            self.faults.append(Fault(path, f"is required{self.origin.note(path)}", f"must be {expected(kind)}", f"type {path}=..."))
            return value
        if str in members(kind) and not isinstance(value, (str, list, dict, type(None))) and type(value) not in members(kind):
            setting = self.origin.setting(path)
            if setting and setting.key == path and setting.source == "typed":
                return setting.text
        try:
            return fit(value, kind)
        except Misfit as misfit:
            lost = isinstance(value, (bool, int, float)) and str in members(kind)
            lost = lost or (isinstance(value, list) and any(not isinstance(item, str) for item in value) and "text" in str(misfit))
            self._misfit(path, value, str(misfit), "put it in quotes, else YAML takes it for something else" if lost else "")
            return value

    def _section(self, path: str, kinds: Mapping[str, Any], node: dict[str, Any]) -> dict[str, Any]:
        self._unknown(node, list(kinds), path)
        values = {}
        for name, kind in kinds.items():
            if name in node:
                values[name] = self._value(f"{path}.{name}", kind, node[name])
            else:
                self.faults.append(self._missing(f"{path}.{name}"))
        return values

    # -- making the dataclasses -------------------------------------------------------------------------------------

    def _make(self, kind: type, path: str, values: dict[str, Any]) -> None:
        made = self._construct(kind, path, {name: self.made.get(f"{path}.{name}", value) for name, value in values.items()})
        if made is not None:
            self.made[path] = made

    def _construct(self, kind: type, path: str, values: dict[str, Any]) -> Any:
        """`kind(**values)`, or None with its faults noted. A class stops at its first fault: the value at fault is
        replaced by the shipped one until it has no more to say."""
        told: set[str] = set()
        while True:
            try:
                made = kind(**values)
            except ValueError as error:
                field, _, words = str(error).partition(": ")
                if field in told:
                    return None
                key = f"{path}.{field}" if path else field
                given, _, rest = words.partition("; ")
                allowed, _, fix = rest.partition("; ")
                allowed += self._or_number(kind, field, values.get(field), allowed)
                self.faults.append(Fault(key, given + self.origin.note(key), allowed, fix))
                told.add(field)
                if field not in values:
                    return None
                values = {**values, field: shipped(key, values[field])}
            else:
                return None if told else made

    @staticmethod
    def _or_number(kind: type, field: str, value: Any, allowed: str) -> str:
        """The rest of `allowed: auto` where a number would do as well as the words."""
        if not isinstance(value, str) or not allowed.startswith("allowed: "):
            return ""
        numbers = tuple(choice for choice in members(typing.get_type_hints(kind).get(field)) if choice in (int, float, bool))
        return f", or {expected(numbers[0])}" if numbers and numbers[0] is not bool else ""

    def _whole(self, field: str, kind: Any) -> Any:
        if kind == dict[str, Any]:
            return {name: self.made[f"{field}.{name}"] for name in self.values[field]}
        return self.made.get(field, self.values[field])

    @staticmethod
    def _at(tree: Any, path: str) -> Any:
        for name in path.split("."):
            tree = tree[name]
        return tree

    # -- faults -----------------------------------------------------------------------------------------------------

    def _resolved(self, cfg: Any) -> dict[str, Any]:
        """The plain tree with interpolations filled in; one that can't be is a fault, and so is a `${` left over."""
        from omegaconf import DictConfig, OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        if not isinstance(cfg, DictConfig):
            return dict(cfg)
        tree = OmegaConf.to_container(cfg, resolve=False)
        try:
            tree = OmegaConf.to_container(cfg, resolve=True)
        except OmegaConfBaseException:
            for key, value in leaves(tree):
                if isinstance(value, str) and "${" in value:
                    try:
                        OmegaConf.select(cfg, key)
                    except OmegaConfBaseException as error:
                        words = str(error).splitlines()[0]
                        self.faults.append(Fault(key, f"{value!r} can't be filled in{self.origin.note(key)}", words))
        return typing.cast("dict[str, Any]", tree)

    def _check_plugins(self) -> None:
        for package in self.plugins:
            if not package.isidentifier() or source_file(f"{package}.__init__") is None:
                self.faults.append(
                    Fault("run.plugins", f"there is no package '{package}'", "must be installed beside llmtune", "")
                )

    def _unknown(self, node: dict[str, Any], known: list[str], path: str) -> None:
        for name in node:
            if name not in known:
                key = f"{path}.{name}" if path else str(name)
                meant = self._meant(str(name), known, path)
                hint = f"did you mean '{meant}'?" if meant else ""
                here = f"keys here: {', '.join(known)}" if not meant else ""
                self.faults.append(Fault(key, f"unknown key{self.origin.note(key)}", here, hint))

    def _meant(self, name: str, known: list[str], path: str) -> str | None:
        """The key most likely meant: one here, or the one elsewhere that is called so."""
        prefix = f"{path}." if path else ""
        elsewhere = [key for key in self.known if key.rpartition(".")[2] == name and key != f"{prefix}{name}"]
        if elsewhere:
            return min(elsewhere, key=lambda key: (key.count("."), key))
        near = nearest(name, known)
        if near:
            return f"{prefix}{near}"
        tails = {key.rpartition(".")[2]: key for key in sorted(self.known) if not key.startswith(f"{prefix}{name}")}
        far = nearest(name, [tail for tail in tails if len(tail) > 2])
        return tails[far] if far else None

    def _missing(self, key: str) -> Fault:
        where, _, name = key.rpartition(".")
        if not where:
            return Fault(key, "is missing", "", f"type {key}=...")
        return Fault(
            key,
            f"is missing{self.origin.note(where + '.name')}",
            "an option names all its keys",
            f"add {name}: to the YAML, or start it with  defaults: [OPTION, _self_]  to take the rest from a shipped one",
        )

    def _misfit(self, path: str, value: Any, allowed: str, fix: str = "") -> None:
        self.faults.append(Fault(path, f"{show(value)} was given{self.origin.note(path)}", allowed, fix))


def show(value: Any) -> str:
    """A value as a message shows it: in the spelling of YAML, texts in quotes."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def shipped(key: str, given: Any) -> Any:
    """The value that a shipped YAML has for `key` (other than `given`), to go on checking with; `given` if none has."""
    from omegaconf import OmegaConf

    group = key.split(".")[0]
    folder = os.path.join(conf_dir(), group)
    files = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    for file in [os.path.join(folder, name) for name in files if name.endswith(".yaml")] + [os.path.join(conf_dir(), "train.yaml")]:
        content = OmegaConf.load(file)
        for path in (key, key.partition(".")[2]):
            found = OmegaConf.select(content, path) if path else None
            if path and found != given and (found is not None or _holds(content, path)):
                return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
    return given


def _holds(content: Any, path: str) -> bool:
    from omegaconf import OmegaConf

    above, _, name = path.rpartition(".")
    node = OmegaConf.select(content, above) if above else content
    return OmegaConf.is_dict(node) and name in node

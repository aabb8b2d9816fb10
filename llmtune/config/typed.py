"""What stands on a command line: flags, recipes and `key=value`, as a user's shell delivered them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmtune.config.elsewhere import KEYS
from llmtune.core.errors import ConfigError, Fault, did_you_mean

FLAGS = {
    "-m": "multirun",
    "--multirun": "multirun",
    "--cfg": "show",
    "-c": "show",
    "--config-dir": "config_dirs",
    "-cd": "config_dirs",
}


@dataclass(frozen=True)
class Setting:
    """One `key=value`: `value` is plain Python, `text` what stood to the right of the sign."""

    key: str
    value: Any
    text: str
    source: str = "typed"
    """`typed`, or the recipe that it stands in"""
    sign: str = ""
    """`+`, `++` or `~` before the key, of Hydra's grammar: nobody needs it here"""

    @property
    def line(self) -> str:
        """As it would be typed."""
        return f"{self.key}={self.text}"


@dataclass
class Arguments:
    settings: list[Setting] = field(default_factory=list)
    config_dirs: list[str] = field(default_factory=list)
    multirun: bool = False
    show: bool = False
    """`--cfg job`: print the composed config and stop"""


def arrange(argv: Sequence[str]) -> Arguments:
    """Sort `argv`, whose flags, recipes and settings may stand in any order. What is typed wins over recipes.

    Raises ConfigError with all faults of the line.
    """
    found = Arguments()
    faults: list[Fault | str] = []
    typed: list[Setting] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            faults += _flag(word, rest, found)
        elif word.endswith((".yaml", ".yml")) and ("=" not in word or os.path.isfile(word)):
            try:
                found.settings += read_recipe(word)
            except ConfigError as error:
                faults += error.faults
        elif re.match(r"[+~]*[^=\s]+=", word) or word.startswith("~"):
            typed.append(read_setting(word))
        else:
            faults.append(_stray(word, rest))
    if faults:
        raise ConfigError(*faults)
    found.settings += typed
    return found


def arrange_words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """`argv` of a word that takes plain words: (words, folders of --config-dir). Raises ConfigError."""
    found = Arguments()
    words: list[str] = []
    faults: list[Fault | str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            faults += _flag(word, rest, found)
        else:
            words.append(word)
    if faults:
        raise ConfigError(*faults)
    return words, found.config_dirs


def _flag(word: str, rest: list[str], found: Arguments) -> list[Fault]:
    name, sign, value = word.partition("=")
    kind = FLAGS.get(name)
    if kind == "multirun":
        found.multirun = True
        return []
    if kind is None:
        plain = name.lstrip("-").replace("-", "_")
        if sign:
            return [Fault(word, "settings are written without dashes", "", f"type {KEYS.get(plain, plain)}={value}")]
        if plain in KEYS:
            return [Fault(word, "no such flag", "settings are key=value", f"type {KEYS[plain]}=VALUE")]
        allowed = "allowed: -m, --cfg job, --config-dir DIR, --help"
        return [Fault(word, "no such flag", allowed, did_you_mean(word, FLAGS))]
    if not sign:
        value = rest.pop(0) if rest else ""
    if kind == "show":
        found.show = True
        return [] if value == "job" else [Fault(name, f"{value!r} was given", "allowed: job", "type --cfg job")]
    if not os.path.isdir(value):
        return [Fault(name, f"there is no folder {value!r}", "", "give a folder that holds groups such as optimizer/")]
    found.config_dirs.append(value)
    return []


def _stray(word: str, rest: Sequence[str]) -> Fault:
    from llmtune.config.locate import groups, option_files, search_dirs

    dirs = search_dirs()
    given = "is neither key=value nor a recipe (a .yaml file)"
    if os.path.exists(word):
        return Fault(word, given, "", f"for rows type data=files data.train={word}")
    if re.fullmatch(r"\w+(\.\w+)+", word) and rest and re.fullmatch(r"[\w.]+", rest[0]):
        return Fault(word, given, "", f"did you mean {word}={rest[0]}?")
    fits = [group for group in groups(dirs) if word in option_files(group, dirs)]
    return Fault(
        word,
        given,
        "",
        f"did you mean {fits[0]}={word}?" if fits else "type key=value; llmtune show lists the keys",
    )


def read_setting(line: str) -> Setting:
    match = re.match(r"[+~]*", line)
    sign = match[0] if match else ""
    key, _, text = line[len(sign) :].partition("=")
    head, dot, tail = key.partition(".")
    return Setting(head.replace("-", "_") + dot + tail, read_value(text), text, sign=sign)


def read_value(text: str) -> Any:
    """The value of a typed text: number, true/false, null, list or mapping where it reads as one, else the text itself.

    Hydra's grammar decides, quotes and `${...}` included. What it can't read (Chinese, `;`, a path with `=`), would
    unescape (`C:\\data`) or take for a sweep (`a, b`) is plain text; a list or mapping that it can't read is YAML.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    opens = text[:1]
    if (text and not text.strip()) or ("\\" in text and opens not in ("'", '"', "[", "{")):
        return text
    try:
        override = OverridesParser.create().parse_override(f"key={text}")
        if not override.is_sweep_override():
            return override.value()
    except HydraException:
        pass
    return _flow(text) if opens in ("[", "{") else text


def _flow(text: str) -> Any:
    """A list or mapping in YAML's flow style, its plain scalars read as typed values: `[no, 负面]` holds two texts."""
    import yaml

    def plain(node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return {plain(key): plain(value) for key, value in node.value}
        if isinstance(node, yaml.SequenceNode):
            return [plain(item) for item in node.value]
        return node.value if node.style else read_value(node.value)

    try:
        return plain(yaml.compose(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, TypeError):  # TypeError: a key that is a list
        return text


def read_recipe(path: str) -> list[Setting]:
    """The settings of a recipe: a YAML that holds what one would type, keys nested or dotted.

    A stored `config.yaml` of a run is a recipe too: the `name` of a section is taken as the choice of its option.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from llmtune.config.locate import groups, search_dirs, short

    if not os.path.isfile(path):
        raise ConfigError(Fault(path, "there is no such recipe", "", "give a .yaml file, or key=value"))
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise ConfigError(Fault(short(path), yaml_words(error))) from error
    if not isinstance(content, dict):
        raise ConfigError(Fault(short(path), "holds no keys", "a recipe is a YAML of key: value"))
    if "defaults" in content:
        raise ConfigError(
            Fault(
                f"{short(path)}: defaults",
                "a recipe has no defaults list",
                "it holds what one would type, such as  task: sentiment",
                "or put the file under conf/experiment/ and type experiment=NAME",
            )
        )
    known = groups(search_dirs())
    return [
        Setting(key, value, to_text(value), source=short(path))
        for name, node in content.items()
        for key, value in (_as_choice(str(name), node) if name in known else _flatten(str(name), node))
    ]


def _as_choice(group: str, node: Any) -> list[tuple[str, Any]]:
    """The settings of a group's section: which option, then its values."""
    if not isinstance(node, dict):
        return [(group, node)]
    if isinstance(node.get("name"), str):
        return [(group, node["name"]), *_flatten(group, {key: value for key, value in node.items() if key != "name"})]
    if node and all(isinstance(part, dict) and part.get("name") == name for name, part in node.items()):
        inner = {name: {key: value for key, value in part.items() if key != "name"} for name, part in node.items()}
        return [(group, list(node)), *_flatten(group, inner)]
    return _flatten(group, node)


def _flatten(prefix: str, node: Any) -> list[tuple[str, Any]]:
    if isinstance(node, dict) and node and all(isinstance(key, str) and key.isidentifier() for key in node):
        return [pair for key, value in node.items() for pair in _flatten(f"{prefix}.{key}", value)]
    return [(prefix, node)]


def to_text(value: Any) -> str:
    """The text that `read_value` reads as `value`."""
    import json

    if isinstance(value, float):
        return repr(value)
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, default=str)
    escaped = re.sub(r"(\\*)'", r"\1\1\'", value)
    texts = (value, f"'{value}'", f'"{value}"', f"'{escaped}'")
    return next((text for text in texts if read_value(text) == value), value)


def yaml_words(error: Exception) -> str:
    """A YAML error in one line, with line and column where it has them."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if not mark:
        return f"can't be read: {problem}"
    return f"is no YAML: line {mark.line + 1}, column {mark.column + 1}: {problem}"

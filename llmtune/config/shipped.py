"""What the shipped YAML says: the options that a run has by default, and a known good value for a key."""

from __future__ import annotations

import functools
import os
from typing import Any

import yaml

from llmtune.config.locate import PRIMARY, conf_dir, config_file, option_files
from llmtune.config.yaml_keys import read_keys


@functools.cache
def defaults() -> dict[str, Any]:
    """group -> the option, list of options, or None, that conf/train.yaml chooses."""
    with open(os.path.join(conf_dir(), f"{PRIMARY}.yaml"), encoding="utf-8") as file:
        entries = yaml.safe_load(file)["defaults"]
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    return {group: option for group, option in pairs if not group.startswith("override ")}


def good_value(key: str, given: Any) -> Any:
    """The value that a shipped YAML has for `key` (another than `given`), to go on checking with; else `given`."""
    from omegaconf import OmegaConf

    group, _, below = key.partition(".")
    dirs = [conf_dir()]
    for file in (*option_files(group, dirs).values(), config_file(PRIMARY, dirs)):
        content = OmegaConf.to_container(OmegaConf.load(str(file)))
        for path in filter(None, (key, below)):
            found = _select(content, path.split("."))
            if found and found[0] != given:
                return found[0]
    return given


def _select(node: Any, names: list[str]) -> list[Any]:
    """The value at a path, in a list; the list is empty where there is none."""
    for name in names:
        if not isinstance(node, dict) or name not in node:
            return []
        node = node[name]
    return [node]


def options_with(group: str, key: str) -> list[str]:
    """Shipped options of a group that have a setting of this name."""
    return [name for name, path in option_files(group, [conf_dir()]).items() if key in read_keys(path)]

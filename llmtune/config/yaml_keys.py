"""What a config file says beside its values: the line of each key and the comment that explains it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import yaml


@dataclass(frozen=True)
class Key:
    line: int
    """counted from 1"""
    meaning: str
    """the comment beside it, or ''"""


@functools.cache
def read_keys(path: str) -> dict[str, Key]:
    """`{dotted key: Key}` of a YAML file, sections included, with the package that its header names put before."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    keys: dict[str, Key] = {}
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(root, yaml.MappingNode):
        _collect(root, "", text.splitlines(), keys)
    return keys


def _collect(node: yaml.MappingNode, prefix: str, lines: list[str], keys: dict[str, Key]) -> None:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        below = isinstance(value, yaml.MappingNode) and value.start_mark.line > key.start_mark.line
        end = key.end_mark if below or value.end_mark.line > key.start_mark.line else value.end_mark
        _, hash_sign, comment = lines[key.start_mark.line][end.column :].partition("# ")
        keys[name] = Key(key.start_mark.line + 1, comment.strip() if hash_sign else "")
        if isinstance(value, yaml.MappingNode):
            _collect(value, f"{name}.", lines, keys)

"""A config as a tree of plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`(dotted key, value)` of every value; items of lists by their number, an empty section or list as itself."""
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, Mapping):
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    if not children or not len(node):
        yield prefix, node
    for key, value in children:
        yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))

"""Which modules of a backbone are its layers: those in lists that are as long as its config says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn

COUNTS = {
    "encoder": ("encoder_layers", "num_encoder_layers", "encoder_num_hidden_layers", "speech_encoder_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers", "decoder_num_hidden_layers"),
    "": ("num_hidden_layers", "num_layers", "num_hidden_groups"),
}
"""keys of configs that say how many layers an encoder, a decoder or a model that says nothing of either has; ALBERT's
layers of one group are one and the same"""
LAYERED = ("encoder", "decoder", "global")
"""parts with a config of their own whose layers count; those of others see or hear for a language model"""


class Stack(NamedTuple):
    """Layers that run one after the other."""

    part: str
    """path of the transformers model that they are the layers of, seen from the backbone"""
    layers: tuple[tuple[str, ...], ...]
    """paths of each layer's modules, the lowest layer first; several where a layer is spread over lists (XLM)"""


class Stacks(NamedTuple):
    stacks: tuple[Stack, ...]
    """from the bottom to the top"""
    towers: frozenset[str]
    """paths of what sees or hears for a language model"""
    unsure: str | None
    """why these may not be the model's layers; None: they are"""


class _List(NamedTuple):
    path: str
    items: tuple[str, ...]
    whole: bool
    """are its items made of several modules each?"""

    @property
    def home(self) -> str:
        return self.path.rpartition(".")[0]

    @property
    def role(self) -> str:
        return re.findall(r"encoder|decoder|$", self.path)[-2:][0]


def find_stacks(base: nn.Module) -> Stacks:
    """Read them off a backbone or a model that holds one.

    A model of transformers has, for each encoder and each decoder in it, a list as long as its config says; lists
    beside each other whose items are parts of a layer (attention, feed-forward) count as one. A module without a
    config has its outermost lists.
    """
    parts, towers = _parts(base)
    lists = [each for each in _lists(base) if not _within(each.path, towers)]
    if not parts:
        outermost = (tuple((item,) for item in each.items) for each in _outermost(lists))
        return Stacks(tuple(Stack("", layers) for layers in outermost), towers, None)
    stacks, strange = [], []
    owners = {_nearest(each.path, parts) for each in lists if each.whole}
    for path in parts:
        around = any(other != path and _within(other, [path]) for other in owners)
        if path not in owners or around:  # of an encoder or a decoder
            continue
        own = [each for each in lists if _nearest(each.path, parts) == path]
        found = list(_stacks_of(path, parts[path].config, own))
        stacks += found
        strange += [f"{each.path} ({len(each.items)})" for each in _outermost(own)] if not found else []
    if strange or not stacks:
        return Stacks(tuple(stacks), towers, f"its config does not say that {' and '.join(strange) or 'it'} are layers")
    order = {path: number for number, (path, _) in enumerate(base.named_modules())}
    return Stacks(tuple(sorted(stacks, key=lambda stack: order[stack.layers[0][0]])), towers, None)


def _stacks_of(path: str, config: Any, lists: list[_List]) -> Iterator[Stack]:
    """Of one model of transformers: at most one of an encoder (or of no name), and one of a decoder."""
    for decoder in (False, True):
        fitting = [each for each in lists if (each.role == "decoder") == decoder and _fits(each, config)]
        home = min((each.home for each in fitting if each.whole), key=_distance, default=None)
        beside = [each for each in fitting if each.home == home]
        whole = [each for each in beside if each.whole]
        if whole:
            yield Stack(path, tuple(zip(*(each.items for each in (beside if len(whole) > 1 else whole)))))


def _distance(home: str) -> tuple[int, bool, int]:
    """Of several lists that are long enough the outermost is meant, rather an encoder's than one that makes frames of
    sound; CANINE's encoder stands between two of a longer name."""
    return len(home.split(".")) if home else 0, "coder" not in home, len(home)


def _fits(each: _List, config: Any) -> bool:
    for role in (each.role, ""):
        counts = [getattr(config, key, None) for key in COUNTS[role]]
        if any(isinstance(count, int) for count in counts):
            return len(each.items) in counts
    return False


def _lists(base: nn.Module) -> Iterator[_List]:
    """All lists of modules with parameters; a list of lists (Funnel's blocks) is one long list."""
    for path, module in base.named_modules():
        if not isinstance(module, nn.ModuleList):
            continue
        items = {f"{path}.{name}": item for name, item in module.named_children()}
        if items and all(isinstance(item, nn.ModuleList) for item in items.values()):
            items = {f"{outer}.{name}": item for outer, inner in items.items() for name, item in inner.named_children()}
        if items and all(next(item.parameters(), None) is not None for item in items.values()):
            yield _List(path, tuple(items), all(next(item.children(), None) is not None for item in items.values()))


def _outermost(lists: list[_List]) -> list[_List]:
    whole = [each for each in lists if each.whole]
    return [each for each in whole if not any(_within(each.path, other.items) for other in whole)]


def _parts(base: nn.Module) -> tuple[Mapping[str, Any], frozenset[str]]:
    """Path -> each transformers model in it, but for towers; the paths of these."""
    from transformers import PreTrainedModel

    models = {path: module for path, module in base.named_modules() if isinstance(module, PreTrainedModel)}
    layered = {each for model in list(models.values())[:1] for each in _layered(model.config)}
    holds = {path for path in models for inner, model in models.items()
             if type(model.config) in layered and _within(inner, [path])}  # fmt: skip
    towers = frozenset(path for path in models if path and path not in holds)
    return {path: model for path, model in models.items() if path not in towers and not _within(path, towers)}, towers


def _layered(config: Any) -> set[type]:
    """Classes of configs, this one's and those in it, that say how many layers there are."""
    inner = {key: getattr(config, key, None) for key in getattr(config, "sub_configs", ())}
    if inner.get("text_config") is not None:
        return _layered(inner["text_config"])
    mine = [each for key, each in inner.items() if each is not None and key.removesuffix("_config") in LAYERED]
    return {type(config)}.union(*(_layered(each) for each in mine))


def _nearest(path: str, parts: Mapping[str, Any]) -> str:
    return max((part for part in parts if _within(path, [part])), key=len, default="")


def _within(path: str, others: Any) -> bool:
    """Is it one of these modules, or inside of one?"""
    return any(not other or path == other or path.startswith(f"{other}.") for other in others)

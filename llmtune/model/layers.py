"""LayerMap: for each parameter its place in the network and its kind; the only file that knows model families."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from llmtune.model.stacks import Stack, find_stacks

HEAD = "head"
EMBEDDINGS = "embeddings"
FINAL = "final"

ON_TOP = re.compile(r"(^|\.)pooler\.")
"""modules inside the backbone that serve as the head's first layer"""
BELOW = re.compile(
    r"embed|(^|\.)w[tp]e\.|(^|\.)shared\.|(^|\.)rel(ative)?_(pos|attention)_|visual|vision"
    r"|(^|\.)(per_layer|altup)_(model_)?projection"
)
"""what may be made after the layers though it comes before them: embedding tables, relative positions that all layers
share, what makes words of pictures, what gives each layer of Gemma3n and its kin an input of its own"""
ABOVE = re.compile(r"(^|\.)(final_layer_norm|project_out|embedding_norm|altup_unembed_projections)\.")
"""what is made before the layers though it comes after them (OPT), or is named after embeddings (LFM2, Gemma3n)"""
NAMED_AS_BELOW = {"layer_norm": re.compile("EncoderStableLayerNorm|ConformerEncoder"),
                  "layernorm_embedding": re.compile("BigBirdPegasus")}  # fmt: skip
"""name of a norm that is below the layers in most of a kin -> the encoders and decoders in which it is above them"""
WRAPPED = re.compile(r"\.(base_layer|modules_to_save\.default)(?=\.|$)")
"""what peft puts between a module's path and its parameters"""


@dataclass(frozen=True)
class LayerMap:
    """Where each parameter stands. A tied parameter appears once, at its lowest place.

    Places from the bottom: `embeddings`, `layer 0` ... `layer n-1`, `final`, `head`. An encoder-decoder counts
    its encoder's layers first, then its decoder's; the encoder's last norm belongs to the encoder's last layer.
    An adapter's parameter stands where its module stands; one that feeds the backbone from outside (prompts,
    prefixes), at the embeddings. peft's frozen copy beside a module that trains (`original_module`) has no place.
    """

    places: dict[str, str]
    """parameter name -> place"""
    kinds: dict[str, str]
    """parameter name -> weight | bias | norm | adapter"""
    num_layers: int
    plain: dict[str, str]
    """parameter name -> the name it has in the bare Hugging Face model, whatever is wrapped around that"""
    tied: dict[str, str]
    """name of a parameter that serves at two places -> the upper one"""
    own: frozenset[str]
    """parameters outside the task model: those of objectives. They stand at the head and always train"""
    fixed: frozenset[str]
    """parameters that can't train: integers, and numbers that an adapter keeps for itself"""
    beside: frozenset[str]
    """modules of the backbone beside the layers without a place of their own: containers, dropout of embeddings"""
    unsure: str | None = None
    """why the layers may not be the model's, in words; None: there are as many as its config says"""

    @property
    def order(self) -> list[str]:
        """All places from the bottom to the top."""
        return [EMBEDDINGS, *(f"layer {i}" for i in range(self.num_layers)), FINAL, HEAD]

    @cached_property
    def adapters(self) -> frozenset[str]:
        """Names of the adapter's parameters, where there is an adapter."""
        return frozenset(name for name, kind in self.kinds.items() if kind == "adapter")

    def depth(self, name: str) -> int:
        """Height of a parameter: 0 for embeddings, num_layers + 2 for the head."""
        return self.order.index(self.places[name])

    def at(self, *places: str) -> frozenset[str]:
        """Names of the parameters at `places`."""
        return frozenset(name for name, place in self.places.items() if place in places)

    def trainable_at(self, *places: str) -> frozenset[str]:
        """What trains if `places` do: all that is there; beneath an adapter the base stays, but for the head."""
        names = self.at(*places) - self.fixed
        if not self.adapters:
            return names
        head = {name for name in self.at(HEAD) if ".base_layer." not in name}
        return names & (self.adapters | head)

    @property
    def everything(self) -> frozenset[str]:
        """What trains without any freezing."""
        return self.trainable_at(*self.order)

    @classmethod
    def of(cls, model: nn.Module, base_prefix: str, added: Collection[str] = ()) -> LayerMap:
        """Read the map off a network that holds a Hugging Face task model, wrapped by peft or not.

        `base_prefix`: where its backbone is, without the wrapping. A model whose backbone is the model itself
        (T5 with its LM head) has no such submodule. `added`: names in `model` of what an adapter put in (`wrap`).
        """
        return _Reading(model, base_prefix, added).map()


def wrap(adapter: Any, network: Any) -> tuple[Any, frozenset[str]]:
    """The network with the adapter in it, and the names of the parameters that came with the adapter."""
    before = {id(parameter) for parameter in network.parameters()}
    network = adapter.wrap(network)
    return network, frozenset(name for name, parameter in network.named_parameters() if id(parameter) not in before)


class _Reading:
    """One pass over a network's modules."""

    def __init__(self, model: nn.Module, base_prefix: str, added: Collection[str]):
        self.modules = dict(model.named_modules())
        self.added = frozenset(added)
        self.task = self._task_path(base_prefix)
        base = _join(self.task, base_prefix.rpartition(".")[2])
        self.base = base if base in self.modules else self.task
        backbone = self.modules[self.base]
        self.stacks, self.towers, self.unsure = find_stacks(backbone)
        layers = [paths for stack in self.stacks for paths in stack.layers]
        self.num_layers = len(layers)
        self.layer_at = {path: number for number, paths in enumerate(layers) for path in paths}
        """path in the backbone of a layer's module -> number of the layer"""
        self.rank = {name: rank for rank, (name, _) in enumerate(backbone.named_parameters(remove_duplicate=False))}
        """in the order in which the family makes its modules: that of its forward pass, but for BELOW and ABOVE"""
        self.norms = {path for path, module in self.modules.items() if "norm" in type(module).__name__.lower()}
        self.outputs = self._output_path()

    def map(self) -> LayerMap:
        places, kinds, tied, plain, fixed = {}, {}, {}, {}, set()
        order = [EMBEDDINGS, *(f"layer {i}" for i in range(self.num_layers)), FINAL, HEAD]
        for names, parameter in self._held():
            name = names[0]
            if ".original_module." in name:
                continue
            found = sorted((self.place(each) for each in names), key=order.index)
            places[name] = found[0]
            if found[0] != found[-1]:
                tied[name] = found[-1]
            kinds[name] = self.kind(name, parameter)
            plain[name] = self.plain(name)
            if not parameter.is_floating_point() or (name in self.added and ".ranknum" in name):
                fixed.add(name)
        own = frozenset(name for name in places if not self.inside(name) and kinds[name] != "adapter")
        beside = frozenset(self.beside())
        return LayerMap(places, kinds, self.num_layers, plain, tied, own, frozenset(fixed), beside, self.unsure)

    def place(self, name: str) -> str:
        if not self.inside(name):
            return EMBEDDINGS if name in self.added else HEAD
        if self.base and not name.startswith(f"{self.base}."):
            return HEAD
        if self.outputs and name.startswith(f"{self.outputs}."):
            return HEAD
        return self._place_in_backbone(name[len(self.base) + 1 :] if self.base else name)

    def _place_in_backbone(self, inner: str) -> str:
        outer = list(_outer(inner))
        number = next((self.layer_at[path] for path in outer if path in self.layer_at), None)
        if number is not None:
            return f"layer {number}"
        if ON_TOP.search(inner):
            return HEAD
        parts = {stack.part for stack in self.stacks}
        part = next((path for path in reversed(["", *outer]) if path in parts), None)
        if any(path in self.towers for path in outer) or (part is None and self.towers):
            return EMBEDDINGS
        stacks = [stack for stack in self.stacks if part is None or stack.part == part]
        if stacks and any(self._class(path) == "ConvLayer" for path in outer):  # DeBERTa's, behind its lowest layer
            return f"layer {self.layer_at[stacks[0].layers[0][0]]}"
        if self._behind(inner):
            return self._above(stacks[-1:])
        if self._below(inner, outer):
            return EMBEDDINGS
        lower = [stack for stack in stacks if self.rank[inner] > self._first(stack)]
        if part is None:  # beside an encoder and a decoder
            return EMBEDDINGS if len(lower) < len(stacks) else HEAD if self.base == self.task and stacks else FINAL
        return self._above(lower[-1:]) if lower else EMBEDDINGS

    def _behind(self, inner: str) -> bool:
        """Does it come after the layers, though it is made before them? T5Gemma's norm beside its list of layers does,
        and what a family names as others name something below, by the class around it."""
        home, _, name = inner.rpartition(".")[0].rpartition(".")
        lists = {layer.rpartition(".")[0].rpartition(".")[0] for layer in self.layer_at}
        other = NAMED_AS_BELOW.get(name)
        return bool(
            ABOVE.search(inner) or (name == "norm" and home in lists) or (other and other.search(self._class(home)))
        )

    def _below(self, inner: str, outer: list[str]) -> bool:
        """Does it come before the layers, wherever it is made? The norm beside DeBERTa's relative positions does."""
        home, _, name = "".join(outer[-1:]).rpartition(".")
        relative = name == "LayerNorm" and _join(self.base, _join(home, "rel_embeddings")) in self.modules
        return relative or BELOW.search(inner) is not None or any("Embedding" in self._class(path) for path in outer)

    def _above(self, stacks: list[Stack]) -> str:
        """`final`, or the last layer of a lower stack: an encoder's last norm comes before the decoder."""
        if not stacks or stacks[0] is self.stacks[-1]:
            return FINAL
        return f"layer {self.layer_at[stacks[0].layers[-1][0]]}"

    def _first(self, stack: Stack) -> int:
        """Rank of the first parameter of its layers."""
        return next(rank for name, rank in self.rank.items() if name.startswith(f"{stack.layers[0][0]}."))

    def _class(self, path: str) -> str:
        return type(self.modules.get(_join(self.base, path))).__name__

    def kind(self, name: str, parameter: nn.Parameter) -> str:
        if name in self.added and not ("modules_to_save" in name.split(".") and self.place(name) == HEAD):
            return "adapter"  # a head that peft copied is still a head
        owner = name.rpartition(".")[0]
        is_bias = name.endswith("bias") or parameter.ndim < 2
        return "norm" if owner in self.norms else "bias" if is_bias else "weight"

    def plain(self, name: str) -> str:
        return WRAPPED.sub("", name[len(self.task) + 1 :] if self.inside(name) and self.task else name)

    def inside(self, name: str) -> bool:
        return not self.task or name.startswith(f"{self.task}.")

    def beside(self) -> Iterable[str]:
        """Paths in the backbone, outside its layers, of containers of layers and of modules without parameters."""
        for path, module in self.modules.items():
            inner = path[len(self.base) + 1 :] if self.base else path
            in_backbone = path == self.base or not self.base or path.startswith(f"{self.base}.")
            in_layers = any(outer in self.layer_at for outer in [*_outer(inner), inner])
            if path == self.task or not in_backbone or in_layers or ON_TOP.search(f"{inner}."):
                continue
            holds_layers = not inner or any(layer.startswith(f"{inner}.") for layer in self.layer_at)
            if holds_layers or next(module.parameters(), None) is None:
                yield path

    def _held(self) -> Iterable[tuple[list[str], nn.Parameter]]:
        """Each parameter with its name under every module that holds it, the first as in `named_parameters`."""
        held: dict[int, tuple[list[str], nn.Parameter]] = {}
        for path, module in self.modules.items():
            for name, parameter in module.named_parameters(recurse=False):
                held.setdefault(id(parameter), ([], parameter))[0].append(_join(path, name))
        return held.values()

    def _task_path(self, base_prefix: str) -> str:
        from transformers import PreTrainedModel

        found = (path for path, module in self.modules.items() if isinstance(module, PreTrainedModel))
        return next(found, base_prefix.rpartition(".")[0])

    def _output_path(self) -> str | None:
        get = getattr(self.modules[self.task], "get_output_embeddings", None)
        outputs = get() if get is not None else None
        if isinstance(outputs, nn.Embedding):  # FSMT's table of words, which scores them too
            return None
        return next((path for path, module in self.modules.items() if module is outputs), None)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _outer(name: str) -> Iterator[str]:
    """Paths of the modules around a parameter or module, the outermost first."""
    words = name.split(".")
    return (".".join(words[:end]) for end in range(1, len(words)))

"""LayerMap: for each parameter its place in the network and its kind; the only file that knows model families."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from torch import nn

HEAD = "head"
EMBEDDINGS = "embeddings"
FINAL = "final"

ON_TOP = re.compile(r"(^|\.)pooler\.")
"""modules inside the backbone that serve as the head's first layer"""
BELOW = re.compile(
    r"embed|(^|\.)w[tp]e\.|(^|\.)mask_emb|(^|\.)shared\.|(^|\.)encoder\.LayerNorm\.|^encoder\.relative_attention_bias\."
    r"|^feature_(extractor|projection)\.|^encoder\.conv\d\."
)
"""embedding tables and what is shared by all layers (relative positions of DeBERTa, with their norm, and of MPNet);
convolutions that make frames of sound (wav2vec2 and its kin, Whisper)"""
ADAPTER = re.compile(r"lora_|ia3_|prefix|adapter_|bottleneck|prompt_encoder|modules_to_save|ranknum")
"""words in the names of modules and parameters that an adapter puts into the network"""
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
    def of(cls, model: nn.Module, base_prefix: str) -> LayerMap:
        """Read the map off a network that holds a Hugging Face task model, wrapped by peft or not.

        `base_prefix`: where its backbone is, without the wrapping. A model whose backbone is the model itself
        (T5 with its LM head) has no such submodule.
        """
        return _Reading(model, base_prefix).map()


class _Reading:
    """One pass over a network's modules."""

    def __init__(self, model: nn.Module, base_prefix: str):
        self.modules = dict(model.named_modules())
        self.task = self._task_path(base_prefix)
        base = _join(self.task, base_prefix.rpartition(".")[2])
        self.base = base if base in self.modules else self.task
        self.stacks = layer_stacks(self.modules[self.base])
        self.norms = {path for path, module in self.modules.items() if "norm" in type(module).__name__.lower()}
        self.outputs = self._output_path()

    def map(self) -> LayerMap:
        places, kinds, tied, plain, fixed = {}, {}, {}, {}, set()
        num_layers = sum(self.stacks.values())
        order = [EMBEDDINGS, *(f"layer {i}" for i in range(num_layers)), FINAL, HEAD]
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
            if not parameter.is_floating_point() or ".ranknum" in name:
                fixed.add(name)
        own = frozenset(name for name in places if not self.inside(name) and kinds[name] != "adapter")
        return LayerMap(places, kinds, num_layers, plain, tied, own, frozenset(fixed), frozenset(self.beside()))

    def place(self, name: str) -> str:
        if not self.inside(name):
            return EMBEDDINGS if ".prompt_encoder." in f".{name}" else HEAD
        if self.base and not name.startswith(f"{self.base}."):
            return HEAD
        if self.base == self.task and self.outputs and name.startswith(f"{self.outputs}."):
            return HEAD
        return self._place_in_backbone(name[len(self.base) + 1 :] if self.base else name)

    def _place_in_backbone(self, inner: str) -> str:
        below = 0
        for path, length in self.stacks.items():
            match = re.match(rf"{re.escape(path)}\.(\d+)\.", inner)
            if match:
                return f"layer {below + int(match[1])}"
            below += length
        if ON_TOP.search(inner):
            return HEAD
        return EMBEDDINGS if BELOW.search(inner) or self._before_layers(inner) else self._above(inner)

    def _before_layers(self, inner: str) -> bool:
        """Is it the norm that wav2vec2 and its kin have before their layers, where it is not behind them?"""
        encoder = self.modules.get(_join(self.base, "encoder"))
        heard = _join(self.base, "feature_extractor") in self.modules
        return heard and inner.startswith("encoder.layer_norm.") and "StableLayerNorm" not in type(encoder).__name__

    def _above(self, inner: str) -> str:
        """`final`, or the last layer of a lower stack: an encoder's last norm comes before the decoder."""
        below = 0
        for path, length in list(self.stacks.items())[:-1]:
            below += length
            if inner.startswith(f"{path.rpartition('.')[0]}."):
                return f"layer {below - 1}"
        return FINAL

    def kind(self, name: str, parameter: nn.Parameter) -> str:
        if self._of_adapter(name):
            return "adapter"
        owner = name.rpartition(".")[0]
        is_bias = name.endswith("bias") or parameter.ndim < 2
        return "norm" if owner in self.norms else "bias" if is_bias else "weight"

    def _of_adapter(self, name: str) -> bool:
        """Families use some of the words too (MobileBERT's bottlenecks): transformers' own modules are no adapter."""
        words = name.split(".")
        first = next((i for i, word in enumerate(words) if ADAPTER.search(word)), None)
        if first is None or (not self.inside(name) and "prompt_encoder" not in words):
            return False
        if "modules_to_save" in words:
            return self.place(name) != HEAD  # a head that peft copied is still a head
        within = (self.modules.get(".".join(words[:end])) for end in range(first + 1, len(words)))
        return not any(type(module).__module__.startswith("transformers.") for module in within if module is not None)

    def plain(self, name: str) -> str:
        return WRAPPED.sub("", name[len(self.task) + 1 :] if self.inside(name) and self.task else name)

    def inside(self, name: str) -> bool:
        return not self.task or name.startswith(f"{self.task}.")

    def beside(self) -> Iterable[str]:
        """Paths in the backbone, outside its layers, of containers of layers and of modules without parameters."""
        for path, module in self.modules.items():
            inner = path[len(self.base) + 1 :] if self.base else path
            in_backbone = path == self.base or not self.base or path.startswith(f"{self.base}.")
            in_layers = any(inner.startswith(f"{stack}.") for stack in self.stacks)
            if path == self.task or not in_backbone or in_layers or ON_TOP.search(f"{inner}."):
                continue
            holds_layers = not inner or any(f"{stack}.".startswith(f"{inner}.") for stack in self.stacks)
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
        return next((path for path, module in self.modules.items() if module is outputs), None)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def layer_stacks(base: nn.Module) -> dict[str, int]:
    """Path -> length of the backbone's stacks of layers: the outermost lists of modules of one class, but for
    those of convolutions that make frames of sound."""
    stacks: dict[str, int] = {}
    for path, module in base.named_modules():
        nested = BELOW.search(f"{path}.") is not None or any(path.startswith(stack + ".") for stack in stacks)
        if isinstance(module, nn.ModuleList) and len(module) and not nested and len(Counter(map(type, module))) == 1:
            stacks[path] = len(module)
    return stacks

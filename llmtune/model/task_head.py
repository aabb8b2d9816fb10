"""Another task's head on a backbone that is there: transformers' own class for it, whose backbone is the shared one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llmtune.core.seeds import fold

FILE = "head.safetensors"
NO_LABELS = {"id2label": {0: "LABEL_0", 1: "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "problem_type": None}
"""a config that says nothing of labels: those of the other task are not this one's"""


def task_head(network: Any, task: Any, *, seed: int | None, source: Any = None) -> Any:
    """The Hugging Face model of `task` (its `model_class`, `config_values`) around the backbone of `network`.

    Its head is drawn from `seed`, before it is given the backbone; None: on the meta device, for its shape alone. The
    words of a language model's head are those of the backbone's table where the two are tied, else those in `source`.

    Args:
        source: ModelSettings of where the backbone's weights came from.

    Raises:
        ValueError: transformers has no such head for this family, or not as a module beside the backbone.
    """
    config = copy.deepcopy(network.config)
    for key, value in {**NO_LABELS, **task.config_values()}.items():
        setattr(config, key, value)
    device = "meta" if seed is None else "cpu"
    with torch.random.fork_rng(devices=[]), torch.device(device):
        if seed is not None:
            torch.manual_seed(fold(seed, "head", task.settings.name))
        model = task.model_class().from_config(config)
    prefix = model.base_model_prefix
    if not isinstance(getattr(model, prefix, None), nn.Module) or network.base_model is network:
        raise ValueError(f"{type(model).__name__} has no backbone that could be shared")
    if type(getattr(model, prefix)) is not type(network.base_model):
        raise ValueError(f"{type(model).__name__} has another backbone than {type(network).__name__}")
    if _reads_pooler(model) and getattr(network.base_model, "pooler", None) is None:
        raise ValueError(
            f"{type(model).__name__} reads a pooled state, and the backbone of {type(network).__name__} makes none; "
            "pooling: mean reads the tokens"
        )
    if seed is not None and getattr(source, "path", None) and model.get_output_embeddings() is not None:
        model = task.model_class().from_pretrained(
            str(Path(source.path).expanduser()), revision=source.revision, config=config, dtype=torch.float32,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    return on_backbone(model, network.base_model).float()


def on_backbone(model: Any, backbone: nn.Module) -> Any:
    """The model with another backbone in the place of its own, and its words tied to those of that one."""
    setattr(model, model.base_model_prefix, backbone)
    words = model.get_output_embeddings()
    if words is not None and model.config.tie_word_embeddings:
        words.weight = model.get_input_embeddings().weight
    return model


def _reads_pooler(model: Any) -> bool:
    """Does a head of transformers read what its backbone's pooler puts out? Heads of our own read tokens."""
    own = type(model).__module__.startswith("llmtune.")
    return not own and getattr(model.base_model, "pooler", None) is not None


def head_weights(model: Any) -> dict[str, torch.Tensor]:
    """What a model has beside its backbone, by name."""
    prefix = f"{model.base_model_prefix}."
    return {name: value for name, value in model.state_dict().items() if not name.startswith(prefix)}


def save_head(model: Any, folder: Any) -> None:
    """Write config.json and head.safetensors of a model whose backbone is kept elsewhere."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    save_file({name: value.contiguous().clone() for name, value in head_weights(model).items()}, folder / FILE)


@torch.no_grad()
def load_head(model: Any, folder: Any) -> None:
    """Put what `save_head` wrote into a model. Raises ValueError: names or shapes differ."""
    kept, own = load_file(folder / FILE), head_weights(model)
    wrong = [name for name in kept.keys() | own.keys()
             if name not in kept or name not in own or kept[name].shape != own[name].shape]  # fmt: skip
    if wrong:
        raise ValueError(f"{FILE} is of another model: {', '.join(sorted(wrong)[:4])}")
    for name, value in own.items():
        value.copy_(kept[name])

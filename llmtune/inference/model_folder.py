"""`model/`: a plain Hugging Face folder with llmtune.json beside, written whole or not at all.

An adapter that can be folded into the weights is; it lies in `model/adapter/` besides, in peft's own form. One that
can't lies there alone, and the folder is the model that it was trained on: `open_model` puts the two together.
So it does with the heads of other tasks that were learnt beside, in `model/auxiliary/<name>/`.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llmtune.core.errors import Fault, ModelError
from llmtune.run.files import SaveFailed, fsync_dir, read_json, write_json

FORMAT = 1
CARD = "llmtune.json"
ADAPTER = "adapter"
"""the folder in `model/` that holds the adapter"""
BODY, BODY_CLASS = "body", "body_class"
"""keys in the card of a folder that holds a head alone: the way from there to the folder of the whole model, and
module and name of the class of that"""


def write_model(
    folder: Path, model: Any, tokenizer: Any, card: dict[str, Any], adapter: Any,
    beside: Mapping[str, tuple[Any, dict[str, Any]]] = MappingProxyType({}),
) -> None:  # fmt: skip
    """`save_pretrained` of model and tokenizer, `card` (labels, columns, preprocessing) as llmtune.json, the adapter.

    `beside`: path below `folder` -> model on the same backbone, of which the head alone is written, and its card.

    Raises:
        SaveFailed: with the system's reason; a model that was there before is untouched.
    """
    from llmtune.model.task_head import save_head

    for left in folder.parent.glob(f".{folder.name}.*"):  # by a start that was killed here
        shutil.rmtree(left, ignore_errors=True)
    aside, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    try:
        with adapter.plain(model) as plain:
            plain.save_pretrained(aside)
        adapter.save(model, aside / ADAPTER, card.get("base"))
        tokenizer.save_pretrained(aside)
        write_json(aside / CARD, {"format": FORMAT, **card})
        for place, (other, other_card) in beside.items():
            (aside / place).mkdir(parents=True)
            save_head(other, aside / place)
            tokenizer.save_pretrained(aside / place)
            body = "/".join([".."] * len(Path(place).parts))
            own = {BODY: body, BODY_CLASS: [type(model).__module__, type(model).__name__]}
            write_json(aside / place / CARD, {"format": FORMAT, **other_card, **own})
        if folder.exists():
            os.replace(folder, old)
        os.replace(aside, folder)
        fsync_dir(folder.parent)
    except Exception as error:  # safetensors reports a full disk by an exception of its own
        shutil.rmtree(aside, ignore_errors=True)
        raise SaveFailed(folder, error) from error
    shutil.rmtree(old, ignore_errors=True)


def make_card(config: Any, task: Any, *, max_tokens: int, columns: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """What `predict` and `evaluate` need to treat a text as training did."""
    return {
        "task": {"kind": config.task.kind, "settings": dataclasses.asdict(config.task), "state": task.to_json()},
        "max_tokens": max_tokens,
        "columns": columns,
        "data": {"label_names": config.data.label_names, "label_delimiter": config.data.label_delimiter},
        "adapter": _adapter_facts(config.adapter),
        **facts,
    }


def _adapter_facts(settings: Any) -> dict[str, Any] | None:
    """How the adapter was made and whether the weights in `model/` have it in them; None where there is none."""
    if settings.name == "none":
        return None
    return {"settings": dataclasses.asdict(settings), "merged": settings.build(None).merges, "folder": ADAPTER}


def read_card(folder: Path) -> dict[str, Any]:
    """llmtune.json of a model folder.

    Raises:
        ModelError: it is not there, or of another format.
    """
    path = folder / CARD
    if not path.exists():
        raise ModelError(Fault(str(folder), "no llmtune.json in it", "a run folder, or the model/ of one"))
    card = read_json(path)
    if card.get("format") != FORMAT:
        raise ModelError(Fault(str(path), f"format {card.get('format')}", f"this version reads {FORMAT}"))
    return card


def open_model(
    folder: Path, model_class: Any, card: Mapping[str, Any], plugins: Sequence[str] = ()
) -> tuple[Any, list[str]]:
    """The trained model in fp32 and eval mode, its adapter in its place, and names of weights that the folder lacks.

    Raises:
        Exception: whatever transformers or safetensors find wrong with a damaged file.
    """
    import torch

    from llmtune.config.shelf import find_part

    if BODY in card:
        return _with_head(folder, model_class, card, plugins), []
    model, info = model_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    kept = card.get("adapter")
    if kept is not None and not kept["merged"]:
        part = find_part("adapter", kept["settings"]["name"], plugins, os.fspath(folder / CARD))
        adapter = part.load()(**kept["settings"]).build(None)
        adapter.wrap(model)
        adapter.load(model, folder / ADAPTER)
    return model.eval(), sorted(info["missing_keys"])


def _with_head(folder: Path, model_class: Any, card: Mapping[str, Any], plugins: Sequence[str]) -> Any:
    """The head in `folder` on the backbone of the model that it was trained with."""
    import transformers

    from llmtune.model.task_head import load_head, on_backbone

    place, (module, name) = folder / card[BODY], card[BODY_CLASS]
    body_class = getattr(transformers, name) if hasattr(transformers, name) else getattr(import_module(module), name)
    whole, missing = open_model(place, body_class, read_card(place), plugins)
    if missing:
        raise ValueError(f"{place} lacks weights: {', '.join(missing[:4])}")
    config = transformers.AutoConfig.from_pretrained(folder)
    model = model_class.from_config(config) if hasattr(model_class, "from_config") else model_class(config)
    on_backbone(model, whole.base_model)
    load_head(model, folder)
    return model.eval()

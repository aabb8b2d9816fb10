"""`model/`: a plain Hugging Face folder with llmtune.json beside, written whole or not at all."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

from llmtune.core.errors import Fault, ModelError
from llmtune.run.files import SaveFailed, fsync_dir, read_json, write_json

FORMAT = 1
CARD = "llmtune.json"


def write_model(folder: Path, model: Any, tokenizer: Any, card: dict[str, Any]) -> None:
    """`save_pretrained` of model and tokenizer, and `card` (labels, columns, preprocessing) as llmtune.json.

    Raises:
        SaveFailed: with the system's reason; a model that was there before is untouched.
    """
    for left in folder.parent.glob(f".{folder.name}.*"):  # by a start that was killed here
        shutil.rmtree(left, ignore_errors=True)
    aside, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    try:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        write_json(aside / CARD, {"format": FORMAT, **card})
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
        **facts,
    }


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

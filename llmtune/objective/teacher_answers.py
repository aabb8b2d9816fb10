"""A teacher's logits of all training rows: computed once, kept in the cache, memory-mapped by later runs.

Legend: N rows, C classes.
"""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from llmtune.data.batches.feed import TokenTable
from llmtune.data.batches.order import evaluation_batches
from llmtune.data.cache import cached, code_version
from llmtune.hardware.machine import pick_device, pick_precision
from llmtune.objective.teacher import Teacher

FILE = "logits.npy"
MOST_CHARS = 200_000
"""of a text that the teacher reads: far more than fits, and tokenizers need long for more"""
CHUNK_ROWS = 4096
"""rows that are encoded and sorted by length together"""
BATCH_TOKENS = 8192
TELL_EVERY = 0.25
"""share of the rows after which a line says how far it is"""


def stored_logits(teacher: Teacher, open_teacher: Callable[[], Any], parts: Any) -> np.ndarray:
    """(N, C) in fp32 for the training rows, in the order of the teacher's labels.

    The teacher reads the texts itself as it was trained to, so its vocabulary may be another. `open_teacher` is
    called only where the cache has no answers of this teacher to these texts.
    """
    rows, config = parts.splits["train"], parts.config
    device = pick_device(config.hardware)
    reading = Reading(
        encode=encoder_of(teacher, parts.task), columns=read_columns(parts.task, rows),
        pad_id=teacher.tokenizer.pad_token_id, max_tokens=most_tokens(teacher, parts.max_tokens), device=device,
        precision=pick_precision(config.hardware, device),
    )  # fmt: skip

    def build(folder: Path) -> None:
        say = parts.console.say
        say(f"the teacher {teacher.given} reads {len(rows)} rows; its answers are kept for later runs")
        np.save(folder / FILE, reading.logits(open_teacher(), rows, say))

    key = {
        "teacher": teacher.identity(), "texts": texts_sha(rows, reading.columns), "max_tokens": reading.max_tokens,
        "precision": reading.precision, "code": code_version(sys.modules[__name__]), "torch": torch.__version__,
        "transformers": transformers.__version__,
    }  # fmt: skip
    root = Path(config.data.cache_dir).expanduser() if config.data.cache_dir else None
    return np.load(cached("teacher", key, build, root, parts.console.note) / FILE, mmap_mode="r")


def most_tokens(teacher: Teacher, students: int) -> int:
    """Tokens of a row that the teacher reads: as in its own training, else as many as the student if it can."""
    from llmtune.model.backbone import longest_row

    if teacher.place is not None:
        return int(teacher.place.card["max_tokens"])
    return min(longest_row(teacher.config, teacher.tokenizer), students)


def encoder_of(teacher: Teacher, task: Any) -> Any:
    """Rows to the teacher's tokens, as in its own training. UserError where they are none for its tokenizer."""
    # of a copy: an encoder may leave ids of its tokenizer with the task
    return (teacher.task or copy.copy(task)).encoder(teacher.tokenizer)


def read_columns(task: Any, rows: Any) -> list[str]:
    """Columns of the rows that the task reads, its labels apart."""
    return [role.kept for role in task.roles if role.known_before and role.kept in rows.column_names]


def texts_sha(rows: Any, columns: Sequence[str]) -> dict[str, str]:
    """By column; with the length of each value, so that no two lists of them have one hash."""
    found = {}
    for name in columns:
        digest = hashlib.sha256()
        for value in rows[name]:
            written = (value or "").encode("utf-8", "surrogatepass")
            digest.update(f"{len(written)}:".encode() + written)
        found[name] = digest.hexdigest()
    return found


class Reading(NamedTuple):
    """One pass of a model over texts, without gradient."""

    encode: Any
    columns: Sequence[str]
    pad_id: int
    max_tokens: int
    device: str
    precision: str

    def logits(self, model: Any, rows: Any, say: Callable[[str], None]) -> np.ndarray:
        pieces, told = [], TELL_EVERY
        model.to(self.device)
        for start in range(0, len(rows), CHUNK_ROWS):
            pieces.append(self._some(model, rows[start : start + CHUNK_ROWS]))
            share = min(1.0, (start + CHUNK_ROWS) / len(rows))
            if share >= told and len(rows) > CHUNK_ROWS:
                say(f"the teacher has read {share:.0%}")
                told = share + TELL_EVERY
        return np.concatenate(pieces)

    def _some(self, model: Any, texts: dict[str, list[Any]]) -> np.ndarray:
        import datasets

        columns = {
            name: [_short(value) for value in texts[name]] if name in ("text", "text_pair") else texts[name]
            for name in self.columns
        }
        tokens = dict(self.encode(columns, self.max_tokens))
        tokens["length"] = [len(ids) for ids in tokens["input_ids"]]
        table = TokenTable(datasets.Dataset.from_dict(tokens), pad_id=self.pad_id)
        found: list[Any] = [None] * len(table)
        half = torch.bfloat16 if self.precision == "bf16" else torch.float16
        with torch.inference_mode(), torch.autocast(self.device, half, enabled=self.precision != "fp32"):
            for batch in evaluation_batches(table.lengths, max_tokens=BATCH_TOKENS):
                view = {name: tensor.to(self.device) for name, tensor in table.inputs(batch).items()}
                for row, logits_C in zip(batch, model(**view).logits.float().cpu().numpy()):
                    found[row] = logits_C
        return np.stack(found)


def _short(text: str | None) -> str:
    return (text or "")[:MOST_CHARS]

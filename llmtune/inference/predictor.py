"""A trained model at work: texts in, logits out, through the same encoder and the same forward pass as in training.

Legend: N rows, C outputs of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow

from llmtune.config.settings import Config
from llmtune.core.errors import Fault, ModelError
from llmtune.data.feed import EvaluationFeed, TokenTable
from llmtune.hardware.machine import Machine
from llmtune.inference.model_folder import open_model
from llmtune.inference.run_folder import ModelPlace, trained_task
from llmtune.model.backbone import settle_pad_token
from llmtune.training.evaluation import predict

CHUNK_ROWS, CHUNK_CHARS = 4096, 4_000_000
"""rows that are encoded and sorted by length together: what bounds memory, whatever the size of a file"""
CUT_CHARS = 32
"""characters a token that are looked at in a text far longer than the model can take"""


class Predictor:
    """The model of a run folder on this machine; texts may be any, longer ones are cut as in training."""

    def __init__(self, place: ModelPlace, config: Config):
        self.card = place.card
        self.task = trained_task(place, config.run.plugins)
        self.max_tokens: int = place.card["max_tokens"]
        self.machine = Machine(config.hardware)
        self.batch_tokens = config.train.micro_tokens
        self.num_cut = 0
        """rows so far that were longer than the model takes"""
        self.model, self.tokenizer = _load(place, self.task, config.run.plugins)
        self.model.to(self.machine.device)
        if config.hardware.compile:
            self.model.compile(dynamic=True)
        self._encode = self.task.encoder(self.tokenizer)

    def encode(self, texts: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """`input_ids` and their like of rows, exactly as training made them. `texts`: role -> texts."""
        most = max(200_000, CUT_CHARS * self.max_tokens)
        columns = {role: [text if len(text) <= most else text[:most] for text in column]
                   for role, column in texts.items()}  # fmt: skip
        tokens = self._encode(columns, None)
        long = [row for row, ids in enumerate(tokens["input_ids"]) if len(ids) > self.max_tokens]
        if long:
            over = {role: [column[row] for row in long] for role, column in columns.items()}
            cut = self._encode(over, self.max_tokens)
            for name, rows in tokens.items():
                for place, row in enumerate(long):
                    rows[row] = cut[name][place]
        self.num_cut += len(long)
        return tokens

    def logits(self, texts: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """(N, C) in fp32, in the order of the rows."""
        pieces = []
        for start, stop in _chunks(texts):
            tokens = self.encode({role: column[start:stop] for role, column in texts.items()})
            table = TokenTable(_arrow(tokens), pad_id=self.tokenizer.pad_token_id)
            done = predict(self.model, EvaluationFeed(table, None, self.batch_tokens), self.machine)
            assert done is not None  # nobody asks for a stop here
            pieces.append(done[0])
        return np.concatenate(pieces) if pieces else np.zeros((0, self.task.num_outputs), dtype=np.float32)

    def predict(self, texts: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """For each row `label` and, where there are labels, `probabilities` by name."""
        return self.task.decode(self.logits(texts))


def _load(place: ModelPlace, task: Any, plugins: Sequence[str]) -> tuple[Any, Any]:
    """Model in fp32 and eval mode, and tokenizer. Raises ModelError where the folder is not whole."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, missing = open_model(place.model, task.model_class(), place.card, plugins)
        tokenizer = AutoTokenizer.from_pretrained(place.model)
    except Exception as error:  # whatever transformers, safetensors or tokenizers find wrong with a damaged file
        words = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(Fault(str(place.model), f"can't be opened: {words}", "the model/ as a run left it")) from error
    if missing:
        given = f"lacks weights: {', '.join(missing[:4])}"
        raise ModelError(Fault(str(place.model), given, "the model/ as a run left it"))
    settle_pad_token(tokenizer)
    return model, tokenizer


def _chunks(texts: Mapping[str, Sequence[Any]]) -> list[tuple[int, int]]:
    """Consecutive rows, bounded by number and by characters."""
    columns = list(texts.values())
    chunks, start, chars = [], 0, 0
    for row in range(len(columns[0])):
        chars += sum(len(column[row]) for column in columns)
        if row + 1 - start >= CHUNK_ROWS or chars >= CHUNK_CHARS or row + 1 == len(columns[0]):
            chunks.append((start, row + 1))
            start, chars = row + 1, 0
    return chunks


def _arrow(tokens: Mapping[str, list[Any]]) -> Any:
    import datasets

    columns = {name: pyarrow.array(rows, pyarrow.list_(pyarrow.int32())) for name, rows in tokens.items()}
    lengths = pyarrow.array([len(ids) for ids in tokens["input_ids"]], pyarrow.int32())
    return datasets.Dataset(pyarrow.table({**columns, "length": lengths}))

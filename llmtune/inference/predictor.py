"""A trained model at work: rows in, predictions out, through the same encoder and forward pass as in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow

from llmtune.config.settings import Config
from llmtune.core.errors import Fault, ModelError
from llmtune.data.batches.feed import EvaluationFeed, table_of
from llmtune.data.tokens.answer_rows import BadRows
from llmtune.data.tokens.row_lengths import longest_sequences, total_tokens
from llmtune.data.tokens.token_rows import NOT_TEXT, PLAIN, makes_windows, target_type
from llmtune.hardware.machine import Machine
from llmtune.inference.model_folder import open_model
from llmtune.inference.run_folder import ModelPlace, trained_task
from llmtune.model.backbone import open_tokenizer
from llmtune.scoring.predictions import Outcomes, Predictions
from llmtune.training.evaluation import LossSum, predict

CHUNK_ROWS, CHUNK_CHARS = 1024, 2_000_000
"""rows that are encoded and sorted by length together: what bounds memory, whatever the size of a file"""
CUT_CHARS = 32
"""characters a token that are looked at in a text far longer than the model can take"""


class Predictor:
    """The model of a run folder on this machine; texts may be any, longer ones are cut as in training.

    Args:
        task: the one that it was trained for, where that is known already.
    """

    def __init__(self, place: ModelPlace, config: Config, task: Any = None):
        self.card = place.card
        self.task = trained_task(place, config.run.plugins, config.task) if task is None else task
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

    def encode(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """`input_ids` and their like of rows, exactly as training made them. `columns`: role -> what is kept of it."""
        if makes_windows(self._encode):
            return self._encode(columns, self.max_tokens)
        chars = max(200_000, CUT_CHARS * self.max_tokens)
        columns = {role: [text[:chars] if role in PLAIN and text and len(text) > chars else text for text in column]
                   for role, column in columns.items()}  # fmt: skip
        tokens = self._encode(columns, None)
        most = self.max_tokens
        if hasattr(self.task, "room") and "wanted" not in tokens:  # an answer is to follow
            most -= self.task.room(self.max_tokens)
        long = [row for row, length in enumerate(longest_sequences(tokens)) if length > most]
        if long:
            over = {role: [column[row] for row in long] for role, column in columns.items()}
            cut = self._encode(over, most)
            if "wanted" in cut and "wanted" not in tokens:  # all of these have answers, not all of the others
                cut["input_ids"] = [ids[:asked] for ids, (asked,) in zip(cut["input_ids"], cut["asked"])]
            for name, rows in tokens.items():
                for place, row in enumerate(long):
                    rows[row] = cut[name][place]
        self.num_cut += len(long)
        if "wanted" in tokens:
            self._refuse_uncut(tokens)
        return tokens

    def _refuse_uncut(self, tokens: dict[str, list[Any]]) -> None:
        """Raises BadRows for rows that are too long because of what is to be written, which is never cut."""
        lengths = longest_sequences(tokens)
        if max(lengths, default=0) > self.max_tokens:
            said = f"the answer is too long to be kept whole: {{}} tokens, and rows have at most {self.max_tokens}"
            raise BadRows({row: said.format(length) for row, length in enumerate(lengths) if length > self.max_tokens})

    def predict(self, columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """For each row what `task.decode` tells of it; `columns`: those that are known before."""
        rows = _data_set(columns)
        predictions, _ = self.run(rows, None)
        return [told for chunk in predictions.chunks() for told in self.task.decode(chunk)]

    def run(self, rows: Any, targets: Sequence[Any] | None) -> tuple[Predictions, LossSum]:
        """What the model makes of a data set of raw rows, in their order; and the loss where there are targets.

        Args:
            targets: of all rows, as `task.read_labels` gives them; None: none are known. Where the encoder makes them,
                those are taken.
        """
        outcomes, made = Outcomes(len(rows)), Outcomes(len(rows))
        loss, has_made = LossSum(), False
        names = [name for name in rows.column_names if name not in NOT_TEXT]
        for start, stop in _chunks(rows.select_columns(names)):
            try:
                tokens = self.encode(rows.select_columns(names)[start:stop])
            except BadRows as bad:
                raise bad.at(_places(rows[start:stop])) from None
            own: Sequence[Any] | None = tokens.pop("target", None)
            if own is not None:
                made.put(range(start, stop), [np.asarray(target) for target in own])
                has_made = True
            elif targets is not None:
                own = targets[start:stop]
            table = table_of(_arrow(tokens, own), self.tokenizer, self.task)
            scored = self.task.collate_targets if own is not None else None
            feed = EvaluationFeed(table, scored, self.batch_tokens, first_row=start)
            part = predict(self.model, feed, self.machine, outcomes, task=self.task)
            assert part is not None  # nobody asks for a stop here
            loss.total, loss.count = loss.total + part.total, loss.count + part.count
        return Predictions(rows, outcomes, made if has_made else targets), loss

    def run_encoded(self, rows: Any) -> tuple[Predictions, LossSum]:
        """The same for a data set of rows that are token ids already, such as blocks of text."""
        outcomes = Outcomes(len(rows))
        feed = EvaluationFeed(table_of(rows, self.tokenizer, self.task), None, self.batch_tokens)
        loss = predict(self.model, feed, self.machine, outcomes, task=self.task)
        assert loss is not None  # nobody asks for a stop here
        return Predictions(rows, outcomes), loss


def _load(place: ModelPlace, task: Any, plugins: Sequence[str]) -> tuple[Any, Any]:
    """Model in fp32 and eval mode, and tokenizer. Raises ModelError where the folder is not whole."""
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        if hasattr(task, "meet_model"):
            task.meet_model(AutoConfig.from_pretrained(place.model))
        model, missing = open_model(place.model, task.model_class(), place.card, plugins)
        tokenizer = open_tokenizer(place.model)
    except Exception as error:  # whatever transformers, safetensors or tokenizers find wrong with a damaged file
        words = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(Fault(str(place.model), f"can't be opened: {words}", "the model/ as a run left it")) from error
    if missing:
        given = f"lacks weights: {', '.join(missing[:4])}"
        raise ModelError(Fault(str(place.model), given, "the model/ as a run left it"))
    return model, tokenizer


def _places(rows: Mapping[str, Sequence[Any]]) -> list[str]:
    """`file:line` of rows, or their numbers where they come from no file."""
    if "file" in rows:
        return [f"{file}:{line}" for file, line in zip(rows["file"], rows["line"])]
    return [f"row {number}" for number in range(1, 1 + len(next(iter(rows.values()))))]


def _chunks(rows: Any) -> Iterator[tuple[int, int]]:
    """Consecutive rows of a data set, bounded by number and by characters."""
    start = chars = 0
    for at in range(0, len(rows), CHUNK_ROWS):
        some = rows[at : at + CHUNK_ROWS]
        for row, values in enumerate(zip(*some.values()), at):
            chars += sum(len(value or "") for value in values)
            if row + 1 - start >= CHUNK_ROWS or chars >= CHUNK_CHARS or row + 1 == len(rows):
                yield start, row + 1
                start, chars = row + 1, 0


def _data_set(columns: Mapping[str, Sequence[Any]]) -> Any:
    """Rows as a data set."""
    import datasets

    return datasets.Dataset(
        pyarrow.table({name: pyarrow.array(values, pyarrow.string()) for name, values in columns.items()})
    )


def _arrow(tokens: Mapping[str, list[Any]], targets: Sequence[Any] | None) -> Any:
    """Encoded rows as a data set, as training has them."""
    import datasets

    lengths = tokens.get("length") or total_tokens(dict(tokens))
    columns = {
        name: pyarrow.array(rows, pyarrow.list_(pyarrow.int32())) for name, rows in tokens.items() if name != "length"
    }
    if targets is not None:
        columns["target"] = pyarrow.array(targets, target_type(targets))
    return datasets.Dataset(pyarrow.table({**columns, "length": pyarrow.array(lengths, pyarrow.int32())}))

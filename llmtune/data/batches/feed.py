"""Feeds: batches of encoded rows, from any step on; nothing to wind forward and nothing to restore.

Legend: B rows, R sequences (of which a row may have several), T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmtune.core.protocols import Sampling
from llmtune.core.seeds import fold
from llmtune.core.types import Batch
from llmtune.data.batches.order import Order, Rows, evaluation_batches, split_step
from llmtune.data.batches.packing import worth_packing
from llmtune.data.files.arrow_files import ChunkedValues, flat_lists
from llmtune.data.text.blocks import BlockTable, is_blocks

WANTED = "wanted"
"""view of 0 and 1: where the model's output is scored, which then is all that it puts out (model.word_model)"""
SIDES = ("input_ids", "decoder_input_ids")
TargetCollator = Callable[[Sequence[Any], "list[list[int]] | None"], dict[str, torch.Tensor]]
"""targets of some rows, and the lengths of their sequences where rows may have several -> tensors"""


MODEL_INPUTS = ("input_ids", "token_type_ids", "decoder_input_ids", WANTED)
"""columns of encoded rows that the model reads"""


class TokenTable:
    """Encoded rows as flat arrays over the memory-mapped Arrow file: a batch is sliced, not decoded."""

    def __init__(self, dataset: Any, *, pad_id: int, complete: Callable[[Batch], None] | None = None):
        self.dataset = dataset
        self.lengths = np.asarray(_column(dataset, "length"))
        """real tokens of each row, those of its decoder included"""
        self._pads = {"input_ids": pad_id, "decoder_input_ids": pad_id}
        self._flat = {name: flat_lists(dataset, name) for name in MODEL_INPUTS if name in dataset.column_names}
        self._cuts = flat_lists(dataset, "cuts") if "cuts" in dataset.column_names else None
        self.costs = self.lengths if self._cuts is None else _padded_lengths(*self._cuts)
        """tokens of each row with the padding that its own sequences need"""
        self.complete = complete
        """what makes model inputs that no column holds, such as sound"""
        self._facts = {name: flat_lists(dataset, name) for name in _fact_names(dataset)}
        self.keep: Callable[[Rows], Any] | None = None
        """where the prefix cache keeps rows, while there is one"""
        self._targets = _targets(dataset)

    def __len__(self) -> int:
        return len(self.lengths)

    def cuts(self, rows: Rows) -> list[list[int]] | None:
        """Lengths of the sequences of each row; None where every row of the table is one sequence."""
        return None if self._cuts is None else [_part(self._cuts, row).tolist() for row in rows]

    def inputs(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Model inputs of `rows`, each (R, T), padded on the right to the longest sequence; a decoder's, if there are
        any, to the longest of theirs.

        No attention mask where nothing is padded: attention without a mask is quicker, with equal results. A decoder
        needs none: what is padded stands behind all that is looked at.
        """
        cuts, decoded = self.cuts(rows), "decoder_input_ids" in self._flat
        lengths_R = self._sizes("input_ids", rows) if cuts is None else np.concatenate(cuts).astype(np.int64)
        real_RT = np.arange(int(lengths_R.max())) < lengths_R[:, None]
        ours = ("input_ids", "token_type_ids") if decoded else ("input_ids", "token_type_ids", WANTED)
        view = {name: self._padded(name, rows, real_RT) for name in ours if name in self._flat}
        if not real_RT.all():
            view["attention_mask"] = torch.from_numpy(real_RT.astype(np.int64))
        if decoded:
            lengths_R = self._sizes("decoder_input_ids", rows)
            real_RT = np.arange(int(lengths_R.max())) < lengths_R[:, None]
            view |= {name: self._padded(name, rows, real_RT) for name in ("decoder_input_ids", WANTED)}
        return view

    def _sizes(self, name: str, rows: Rows) -> np.ndarray:
        _, starts = self._flat[name]
        rows = np.asarray(rows)
        return starts[rows + 1] - starts[rows]

    def _padded(self, name: str, rows: Rows, real_RT: np.ndarray) -> torch.Tensor:
        padded_RT = np.full(real_RT.shape, self._pads.get(name, 0), dtype=np.int64)
        padded_RT[real_RT] = np.concatenate([_part(self._flat[name], row) for row in rows])
        return torch.from_numpy(padded_RT)

    def batch(self, rows: Rows, collate_targets: TargetCollator | None, *, weight: float = 1.0) -> Batch:
        view, cuts = self.inputs(rows), self.cuts(rows)
        targets = {}
        if collate_targets is not None and self._targets is not None:
            targets = collate_targets([self._targets(int(row)) for row in rows], cuts)
        batch = Batch(
            row_ids=[int(row) for row in rows],
            views={"clean": view},
            targets=targets,
            weight=weight,
            real_tokens=int(self.lengths[rows].sum()) if weight else 0,
            padded_tokens=sum(view[name].numel() for name in SIDES if name in view) if weight else 0,
            kept=self.keep(rows) if self.keep is not None else None,
            num_sequences=[1] * len(rows) if cuts is None else [len(row) for row in cuts],
            facts={name: [_part(flat, row).tolist() for row in rows] for name, flat in self._facts.items()},
        )
        if self.complete is not None:
            self.complete(batch)
        return batch


def table_of(dataset: Any, tokenizer: Any, reader: Any) -> TokenTable | BlockTable:
    """The table of encoded rows; `reader`: the task, or whoever encoded them, with perhaps a method `complete`."""
    if is_blocks(dataset):
        return BlockTable(dataset, pad_id=tokenizer.pad_token_id)
    return TokenTable(dataset, pad_id=tokenizer.pad_token_id, complete=getattr(reader, "complete", None))


@dataclass
class TrainFeed:
    """Training batches: `at(step)` gives this rank's micro-batches of an optimizer step."""

    table: TokenTable | BlockTable
    order: Order
    collate_targets: TargetCollator
    micro_tokens: int
    micro_rows: int | None = None
    rank: int = 0
    world: int = 1
    name: str = "task"
    prepare: Sequence[Callable[[Batch], None]] = ()
    """what objectives add to each batch: views and targets of their own"""
    change: Callable[[Batch], None] | None = None
    """augmentation of its rows, before anything is added"""
    packing: bool = False
    """will the backbone run them end to end (model.packed)?"""

    def at(self, step: int) -> list[Batch]:
        """Micro-batches of `step`, equally many on all ranks; a stand-in of weight 0 where there is no row left."""
        rows = self.order.rows_at(step)
        micros = self._split(rows)[self.rank]
        return [
            self._batch(micro, step) if len(micro) else self._batch(rows[-1:], step, weight=0.0) for micro in micros
        ]

    def _split(self, rows: Rows) -> list[list[Rows]]:
        return split_step(
            rows, self.table.costs, world=self.world, micro_rows=self.micro_rows, micro_tokens=self.micro_tokens,
            packing=self.packing,
        )  # fmt: skip

    def _batch(self, rows: Rows, step: int, *, weight: float = 1.0) -> Batch:
        epoch = step // self.order.steps_per_epoch
        if isinstance(self.table, BlockTable):
            self.table.begin_epoch(fold(self.order.seed, "blocks", self.name, epoch))
        batch = self.table.batch(rows, self.collate_targets, weight=weight)
        batch.feed, batch.step = self.name, step
        seeds = [fold(self.order.seed, "row", self.name, epoch, row) for row in batch.row_ids]
        batch.row_seeds = [
            fold(seed, "sequence", number) if number else seed
            for seed, count in zip(seeds, batch.num_sequences)
            for number in range(count)
        ]
        if self.change is not None:
            self.change(batch)
        if self.packing and weight and (mask_RT := batch.views["clean"].get("attention_mask")) is not None:
            layout = worth_packing(mask_RT.sum(1).numpy())
            batch.padded_tokens = batch.padded_tokens if layout is None else layout.num_tokens
        for add in self.prepare:
            add(batch)
        return batch

    def worst(self) -> Batch:
        """The largest micro-batch that can come: the longest rows together."""
        longest = np.argsort(-self.table.costs, kind="stable")
        step_rows = longest[: int(max(1, len(longest) / self.order.steps_per_epoch))]
        return self._batch(self._split(step_rows)[0][0], step=0)


@dataclass
class Mixture:
    """Several feeds as one: a step has micro-batches of those that `sampling` picks for it, the task's first."""

    feeds: dict[str, TrainFeed]
    """by name; `task` has the task's own rows"""
    sampling: Sampling

    def at(self, step: int) -> list[Batch]:
        return [batch for name, own in self.sampling.pick(step).items() for batch in self.feeds[name].at(own)]

    def worst(self) -> list[Batch]:
        """The largest micro-batch of each feed."""
        return [feed.worst() for feed in self.feeds.values()]

    @property
    def micro_rows(self) -> int | None:
        return self.feeds["task"].micro_rows

    @property
    def micro_tokens(self) -> int:
        """Padded tokens per forward pass."""
        return self.feeds["task"].micro_tokens

    @micro_tokens.setter
    def micro_tokens(self, tokens: int) -> None:
        for feed in self.feeds.values():
            feed.micro_tokens = tokens


@dataclass
class EvaluationFeed:
    """Every row once, longest first, so that what doesn't fit shows at once."""

    table: TokenTable | BlockTable
    collate_targets: TargetCollator | None
    max_tokens: int
    rank: int = 0
    world: int = 1
    rows: Rows | None = None
    """those that are asked for; None: all"""
    first_row: int = 0
    """number of the table's first row among all rows that are looked at, a table at a time"""

    def __iter__(self) -> Iterator[Batch | None]:
        """This rank's batches; None where other ranks have one more, so that all take the same number of turns."""
        rows = np.arange(len(self.table)) if self.rows is None else self.rows
        batches = [rows[batch] for batch in evaluation_batches(self.table.costs[rows], max_tokens=self.max_tokens)]
        for turn in range(0, len(batches), self.world):
            mine = turn + self.rank
            yield self._batch(batches[mine]) if mine < len(batches) else None

    def _batch(self, rows: Rows) -> Batch:
        batch = self.table.batch(rows, self.collate_targets)
        batch.row_ids = [self.first_row + row for row in batch.row_ids]
        return batch

    def worst(self) -> Batch | None:
        """The largest batch, without targets; None where there are no rows."""
        batches = evaluation_batches(self.table.costs, max_tokens=self.max_tokens)
        largest = max(batches, key=lambda rows: len(rows) * self.table.costs[rows[0]], default=None)
        return None if largest is None else self.table.batch(largest, None)


def _column(dataset: Any, name: str) -> np.ndarray:
    return dataset.with_format("numpy", columns=[name])[name][:] if len(dataset) else np.zeros(0, dtype=np.int64)


FACTS_NOT = (*MODEL_INPUTS, "cuts", "target")


def _fact_names(dataset: Any) -> list[str]:
    """Columns of numbers that an encoder made besides what the model reads."""
    import pyarrow

    schema = dataset.data.table.schema
    return [
        name for name in dataset.column_names
        if name not in FACTS_NOT and pyarrow.types.is_list(schema.field(name).type)
        and pyarrow.types.is_integer(schema.field(name).type.value_type)
    ]  # fmt: skip


def _padded_lengths(cuts: np.ndarray | ChunkedValues, starts: np.ndarray) -> np.ndarray:
    """Sequences of each row times the longest of them."""
    # one more, so that a row without any may stand last
    longest = np.maximum.reduceat(np.append(np.asarray(cuts), 0), starts[:-1]) if len(starts) > 1 else np.zeros(0)
    return longest.astype(np.int64) * np.diff(starts)


def _part(flat: tuple[np.ndarray | ChunkedValues, np.ndarray], row: Any) -> np.ndarray:
    """The list of a row, out of all lists end to end and where each begins."""
    values, starts = flat
    return values[starts[row] : starts[row + 1]]


def _targets(dataset: Any) -> Callable[[int], Any] | None:
    """The target of a row; lists, which may be as long as rows, are kept as one array."""
    import pyarrow

    if "target" not in dataset.column_names:
        return None
    if pyarrow.types.is_list(dataset.data.table.schema.field("target").type):
        flat = flat_lists(dataset, "target")
        return lambda row: _part(flat, row).tolist()
    return dataset.with_format(None)["target"][:].__getitem__

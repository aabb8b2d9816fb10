"""Blocks of a token file as rows: texts end to end, cut every so many tokens, so that nothing is lost or padded.

Legend: N blocks, B blocks of a batch, T tokens.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch

from llmtune.core.types import Batch
from llmtune.data.text.token_file import TokenFile

META = "blocks of a token file: "
"""what the description of such a data set begins with; its cut and where the tokens lie come behind, as JSON"""
WRITTEN_BLOCKS = 1000
SHOWN_TOKENS, SHOWN_CHARS = 80, 200
"""of a block's beginning, kept as its text"""


@dataclass(frozen=True)
class Cut:
    """How a stretch of a token file becomes blocks.

    Where each block is scored from its second token on (`overlap` 1: decoders), it begins with the last token of the
    one before it, so that every token is predicted once.
    """

    begin: int
    end: int
    """tokens of the file"""
    max_tokens: int
    """of a block, with what stands around"""
    before: tuple[int, ...]
    after: tuple[int, ...]
    """ids around each block: those that the tokenizer puts around a text"""
    overlap: int

    @property
    def num_tokens(self) -> int:
        return self.end - self.begin

    @property
    def room(self) -> int:
        """Tokens of text in a block."""
        return self.max_tokens - len(self.before) - len(self.after)

    @property
    def num_blocks(self) -> int:
        return max(1, -(-(self.num_tokens - self.overlap) // (self.room - self.overlap)))

    def spans(self, blocks_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) first token and end of each block, counted from `begin`; the last block may be short."""
        starts_N = blocks_N * (self.room - self.overlap)
        return starts_N, np.minimum(starts_N + self.room, self.num_tokens)


def write_blocks(path: Path, tokens: TokenFile, cut: Cut, files: list[str], tokenizer: Any) -> None:
    """An Arrow file with what is known of each block but its ids: length, bytes that it predicts, place, beginning."""
    schema = pyarrow.schema({
        "length": pyarrow.int32(), "bytes": pyarrow.list_(pyarrow.int32()), "text": pyarrow.string(),
        "file": pyarrow.string(), "line": pyarrow.int64(),
    })  # fmt: skip
    around = len(cut.before) + len(cut.after)
    with pyarrow.OSFile(str(path), "wb") as out, pyarrow.ipc.new_stream(out, schema) as stream:
        for at in range(0, cut.num_blocks, WRITTEN_BLOCKS):
            starts_N, ends_N = cut.spans(np.arange(at, min(cut.num_blocks, at + WRITTEN_BLOCKS)))
            first_N, last_N = starts_N + cut.begin, ends_N + cut.begin
            sizes_N = np.rint(tokens.bytes_before(last_N)) - np.rint(tokens.bytes_before(first_N + cut.overlap))
            numbers_N, lines_N = tokens.places_at(first_N)
            texts = tokenizer.batch_decode(
                [tokens.ids(first, min(last, first + SHOWN_TOKENS)) for first, last in zip(first_N, last_N)],
                skip_special_tokens=True, clean_up_tokenization_spaces=False,
            )  # fmt: skip
            stream.write_batch(pyarrow.record_batch([
                pyarrow.array(ends_N - starts_N + around, pyarrow.int32()),
                pyarrow.array(sizes_N.astype(np.int32)[:, None].tolist(), pyarrow.list_(pyarrow.int32())),
                pyarrow.array([text[:SHOWN_CHARS] for text in texts]),
                pyarrow.array([files[number] for number in numbers_N]),
                pyarrow.array(lines_N, pyarrow.int64()),
            ], schema=schema))  # fmt: skip


def open_blocks(path: Path, tokens: TokenFile, cut: Cut) -> Any:
    """The blocks as a data set, memory-mapped, which knows its token file."""
    import datasets

    table = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()
    meta = json.dumps({"folder": str(tokens.folder), "cut": asdict(cut)})
    return datasets.Dataset(table, info=datasets.DatasetInfo(description=META + meta))


def is_blocks(dataset: Any) -> bool:
    return (dataset.info.description or "").startswith(META)


def highest_id(dataset: Any) -> int:
    """The highest token id of encoded rows, or of the token file that blocks are cut from."""
    import pyarrow.compute

    if is_blocks(dataset):
        tokens, cut = _opened(dataset)
        return max(tokens.facts["highest"], *cut.before, *cut.after, 0)
    chunks = [chunk for chunk in dataset.data.column("input_ids").chunks if len(chunk)]
    return max((pyarrow.compute.max(chunk.flatten()).as_py() or 0 for chunk in chunks), default=0)


def _opened(dataset: Any) -> tuple[TokenFile, Cut]:
    meta = json.loads(dataset.info.description.removeprefix(META))
    cut = meta["cut"]
    around = {name: tuple(cut[name]) for name in ("before", "after")}
    return TokenFile(Path(meta["folder"])), Cut(**{**cut, **around})


class BlockTable:
    """Blocks as batches; what data.batches.feed.TokenTable is to rows with columns of their own."""

    def __init__(self, dataset: Any, *, pad_id: int):
        self.dataset = dataset
        self.tokens, self.cut = _opened(dataset)
        self.lengths = dataset.data.column("length").to_numpy()
        self.costs = self.lengths
        self.keep: Any = None
        self._pad_id = pad_id
        self._turn = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def begin_epoch(self, seed: int) -> None:
        """Turn the text by less than a block: it begins elsewhere, and its head comes to stand behind its end.

        So in every epoch other words stand at the edges of blocks, every token is still read once, and no block
        changes its length. `seed`: of this epoch.
        """
        self._turn = seed % min(self.cut.room, self.cut.num_tokens)

    def cuts(self, rows: np.ndarray) -> None:
        """Every row is one sequence."""

    def ids(self, row: int) -> np.ndarray:
        """(T,) the ids of a block, with what stands around."""
        cut = self.cut
        start, end = (int(span[0]) for span in cut.spans(np.array([row])))
        start, end = start + self._turn, end + self._turn
        parts = [(start, min(end, cut.num_tokens)), (0, end - cut.num_tokens)]
        if start >= cut.num_tokens:
            parts = [(start - cut.num_tokens, end - cut.num_tokens)]
        found = [self.tokens.ids(cut.begin + a, cut.begin + b) for a, b in parts if b > a]
        return np.concatenate([cut.before, *found, cut.after]).astype(np.int64)

    def inputs(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Ids of blocks (B, T), padded on the right; a mask only where something is padded."""
        lengths_B = self.lengths[rows]
        real_BT = np.arange(int(lengths_B.max())) < lengths_B[:, None]
        ids_BT = np.full(real_BT.shape, self._pad_id, dtype=np.int64)
        ids_BT[real_BT] = np.concatenate([self.ids(int(row)) for row in rows])
        view = {"input_ids": torch.from_numpy(ids_BT)}
        return view if real_BT.all() else {**view, "attention_mask": torch.from_numpy(real_BT.astype(np.int64))}

    def documents(self, row: int) -> np.ndarray:
        """Positions in a block, from 1 on, at which another document begins; of an unturned table."""
        start, end = (int(span[0]) for span in self.cut.spans(np.array([row])))
        begins = self.tokens.documents_in(self.cut.begin + start, self.cut.begin + end)
        return begins - self.cut.begin - start + len(self.cut.before)

    def batch(self, rows: np.ndarray, collate_targets: Any, *, weight: float = 1.0) -> Batch:
        view = self.inputs(rows)
        sizes = self.dataset.data.column("bytes")
        return Batch(
            row_ids=[int(row) for row in rows],
            views={"clean": view},
            targets={} if collate_targets is None else collate_targets([None] * len(rows), None),
            weight=weight,
            real_tokens=int(self.lengths[rows].sum()) if weight else 0,
            padded_tokens=view["input_ids"].numel() if weight else 0,
            num_sequences=[1] * len(rows),
            facts={"bytes": [sizes[int(row)].as_py() for row in rows]},
        )

"""One split on its way from rows of columns to rows of tokens in an Arrow file."""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow

from llmtune.core.errors import DataError, Fault, Stopped
from llmtune.data.tokens.answer_faults import empty_answers, long_answers, uncut_answers
from llmtune.data.tokens.answer_rows import BadRows
from llmtune.data.tokens.row_lengths import longest_sequences, total_tokens

if TYPE_CHECKING:
    import datasets

Encode = Callable[["dict[str, list[Any]]", "int | None"], "dict[str, list[Any]]"]
"""columns of some rows as they are kept, and the most tokens of a sequence (None: whole) -> by name, a list a row:
`input_ids`; perhaps `token_type_ids`; `decoder_input_ids`; `wanted`, 0 or 1 for each token that the decoder reads: is
what the model puts out there scored?; `cuts`, where a row is several sequences: their lengths, input_ids being all of
them end to end; `target`, where that hangs on tokens (beside `wanted`: a token for each 1 there); `length`, a number a
row, where what it costs is not how many tokens it has; and further numbers, which come back as `Batch.facts`.

What `on_overlength=split` makes of a long row is for the encoder to know: it has `makes_windows = True` where such a
row becomes several sequences, or a method `windows` where it becomes several rows (data.text.plain_text). One that
has a method `told` says by it what the user should know of the rows since it was last asked; by `example`, how one of
them looks. Rows of which it can make no tokens it tells by data.tokens.answer_rows.BadRows.

One that makes answers (`wanted`) has `keeps_answers = True` where it cuts what stands before them and never them: rows
that are too long all the same are refused; and `max_answer_tokens`, where answers may have fewer tokens than rows."""

BATCH_ROWS, BATCH_CHARS = 1000, 1_000_000
HUGE_CHARS = 200_000
SHOWN_LINES = 20
NOT_TEXT = ("label", "file", "line")
PLAIN = {"text", "text_pair"}
"""columns of which an encoder needs no more than the beginning"""
NARROW = {"token_type_ids": pyarrow.int8(), "wanted": pyarrow.int8()}
"""columns whose numbers are small"""


def makes_windows(encode: Encode) -> bool:
    """Does a row that is too long become several sequences?"""
    return getattr(encode, "makes_windows", False)


@dataclass(frozen=True)
class Limits:
    """How long a row may be, and what happens to longer ones."""

    max_tokens: int
    on_overlength: str = "truncate"
    """truncate (by the tokenizer: pairs lose from the longer text first), drop, error, or split into several rows"""
    max_truncated_share: float = 1.0
    on_unsupervised: str = "error"
    """rows with `wanted` and nothing wanted: error or drop"""


def _batches(rows: datasets.Dataset) -> Iterator[tuple[int, dict[str, list[Any]]]]:
    """Consecutive rows, bounded by number and by characters, each with the number of its first."""
    table, start = rows.data, 0
    for chunk in table.to_batches(max_chunksize=BATCH_ROWS):
        columns = chunk.to_pydict()
        names = [name for name in columns if name not in NOT_TEXT]
        begin = chars = 0
        for i in range(chunk.num_rows):
            chars += sum(len(columns[name][i] or "") for name in names)
            if chars >= BATCH_CHARS or i + 1 == chunk.num_rows:
                yield start + begin, {name: values[begin : i + 1] for name, values in columns.items()}
                begin, chars = i + 1, 0
        start += chunk.num_rows


@dataclass
class TokenRows:
    """One split on its way into an Arrow file."""

    encode: Encode
    limits: Limits
    unknown_id: int | None
    should_stop: Callable[[], bool]
    lengths: array[int] = field(default_factory=lambda: array("q"))
    kept: int = 0
    tokens_kept: int = 0
    tokens_lost: int = 0
    """of the sequences by which rows were measured"""
    unknown: int = 0
    estimated: int = 0
    over_rows: int = 0
    over_lines: list[str] = field(default_factory=list)
    supervised: int = 0
    """tokens that are to be written, of the rows that are kept"""
    decoded: int = 0
    """tokens that a decoder beside an encoder reads of them"""
    idle_lines: list[str] = field(default_factory=list)
    """rows in which there are none, or whose answer alone is too long"""
    idle_rows: int = 0

    def write(self, split: str, rows: datasets.Dataset, targets: list[Any] | None, path: Path) -> dict[str, Any]:
        kind = target_type(targets)
        with pyarrow.OSFile(str(path), "wb") as file:
            stream = None
            for start, columns in _batches(rows):
                if self.should_stop():
                    raise Stopped("stopped while encoding data")
                if targets is not None:
                    columns["target"] = targets[start : start + len(columns["file"])]
                try:
                    batch = self._batch(columns, kind)
                except BadRows as bad:
                    raise bad.at(_places(columns, range(len(columns["file"])))) from None
                stream = stream or pyarrow.ipc.new_stream(file, batch.schema)
                stream.write_batch(batch)
            if stream is not None:
                stream.close()
        if not self.kept:
            where = f"all {len(self.lengths)} rows are longer than {self.limits.max_tokens} tokens"
            raise DataError(
                Fault(f"data.{split}", f"no row is left: {where}", "data.on_overlength=drop",
                      "data.on_overlength=truncate")
            )  # fmt: skip
        return self._report()

    def _batch(self, columns: dict[str, list[Any]], kind: pyarrow.DataType | None) -> pyarrow.RecordBatch:
        texts = {name: values for name, values in columns.items() if name not in (*NOT_TEXT, "target")}
        if self.limits.on_overlength != "split":
            tokens, full = self._encoded(texts, columns)
            over = [i for i, length in enumerate(full) if length > self.limits.max_tokens]
        elif makes_windows(self.encode):
            tokens = self.encode(texts, self.limits.max_tokens)
            full = [len(row) for row in tokens["input_ids"]]
            over = [i for i, cuts in enumerate(tokens.get("cuts", ())) if len(cuts) > 1]
        else:
            tokens, columns = self._split(columns)
            full = [len(row) for row in tokens["input_ids"]]
            over = []  # counted where they were split
        after = longest_sequences(tokens) if self.limits.on_overlength != "split" else full
        ids = tokens["input_ids"]
        lengths = tokens.pop("length", None) or total_tokens(tokens)
        self.over_rows += len(over)
        self.over_lines += _places(columns, over[: SHOWN_LINES - len(self.over_lines)])
        self.lengths.extend(full)
        data: dict[str, Any] = {
            name: pyarrow.array(values, pyarrow.list_(NARROW.get(name, pyarrow.int32())))
            for name, values in tokens.items()
            if name != "target"
        }
        data["length"] = pyarrow.array(lengths, pyarrow.int32())
        if "target" in tokens:
            data["target"] = pyarrow.array(tokens["target"], target_type(tokens["target"]))
        elif kind is not None:
            data["target"] = pyarrow.array(columns["target"], kind)
        types = {"line": pyarrow.int64()}
        data |= {
            name: pyarrow.array(columns[name], types.get(name, pyarrow.string()))
            for name in (*texts, *NOT_TEXT)
            if name in columns
        }
        batch = pyarrow.RecordBatch.from_pydict(data)
        left_out = over if self.limits.on_overlength == "drop" else []
        if "wanted" in tokens:
            idle = self._without_answer(tokens["target"], columns)
            left_out = sorted({*left_out, *idle, *self._with_long_answer(tokens["target"], columns)})
        self.tokens_lost += sum(full) - sum(after) + sum(after[row] for row in left_out)
        if left_out:
            keep = np.setdiff1d(np.arange(len(ids)), left_out)
            batch, ids = batch.take(pyarrow.array(keep)), [ids[i] for i in keep]
        if "wanted" in tokens:
            self.supervised += len(batch.column("target").flatten())
        if "decoder_input_ids" in tokens:
            self.decoded += len(batch.column("decoder_input_ids").flatten())
        self.kept += len(ids)
        self.tokens_kept += sum(map(len, ids))
        if self.unknown_id is not None:
            self.unknown += sum(row.count(self.unknown_id) for row in ids)
        return batch

    def _without_answer(self, targets: Sequence[Sequence[int]], columns: dict[str, list[Any]]) -> list[int]:
        """Rows of which nothing would be learnt. DataError unless they are to be dropped."""
        idle = [row for row, target in enumerate(targets) if not len(target)]
        if idle and self.limits.on_unsupervised == "error":
            raise empty_answers(_places(columns, idle[:SHOWN_LINES]))
        self.idle_rows += len(idle)
        self.idle_lines += _places(columns, idle[: SHOWN_LINES - len(self.idle_lines)])
        return idle

    def _with_long_answer(self, targets: Sequence[Sequence[int]], columns: dict[str, list[Any]]) -> list[int]:
        """Rows whose answer has more tokens than the task lets it have. DataError unless they are to be dropped."""
        most: int = getattr(self.encode, "max_answer_tokens", sys.maxsize)
        long = [row for row, target in enumerate(targets) if len(target) > most]
        if long and self.limits.on_overlength != "drop":
            raise long_answers(_places(columns, long[:SHOWN_LINES]), [len(targets[row]) for row in long], most)
        self.over_rows += len(long)
        self.over_lines += _places(columns, long[: SHOWN_LINES - len(self.over_lines)])
        return long

    def _encoded(
        self, texts: dict[str, list[Any]], columns: dict[str, list[Any]]
    ) -> tuple[dict[str, list[Any]], list[int]]:
        """Tokens of a batch, cut where the policy says so, and the lengths they would have uncut.

        Of a huge text (far beyond `max_tokens`) only the beginning is tokenised, because tokenizers need a hundred
        times a text's size; its full length is an estimate.
        """
        most = max(HUGE_CHARS, 32 * self.limits.max_tokens)
        chars = [sum(len(value or "") for value in values) for values in zip(*texts.values())]
        plain = texts.keys() <= PLAIN  # JSON can't be cut
        huge = {i for i, count in enumerate(chars) if count > most} if plain else set()
        if huge:
            texts = {
                name: [value[:most] if i in huge and value else value for i, value in enumerate(values)]
                for name, values in texts.items()
            }
        tokens = {name: list(values) for name, values in self.encode(texts, None).items()}
        full = longest_sequences(tokens)
        for i in huge:
            full[i] = round(full[i] * chars[i] / sum(len(values[i] or "") for values in texts.values()))
        self.estimated += len(huge)
        over = [i for i, length in enumerate(full) if length > self.limits.max_tokens]
        if over and self.limits.on_overlength == "truncate":
            longer = {name: [values[i] for i in over] for name, values in texts.items()}
            cut = self.encode(longer, self.limits.max_tokens)
            for name, values in tokens.items():
                for place, i in enumerate(over):
                    values[i] = cut[name][place]
            self._refuse_uncut(tokens, columns)
        return tokens, full

    def _refuse_uncut(self, tokens: dict[str, list[Any]], columns: dict[str, list[Any]]) -> None:
        """DataError for rows that are too long although they were cut: their answers alone are."""
        lengths, most = longest_sequences(tokens), self.limits.max_tokens
        long = [row for row, length in enumerate(lengths) if length > most]
        assert not long or getattr(self.encode, "keeps_answers", False)
        if long:
            raise uncut_answers(_places(columns, long[:SHOWN_LINES]), [lengths[row] for row in long], most)

    def _split(self, columns: dict[str, list[Any]]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Tokens and columns, a row for each window of a text that is too long for one."""
        tokens, source, parts = self.encode.windows(columns["text"], self.limits.max_tokens)  # type: ignore[attr-defined]
        windows = Counter(source)
        long = [number for number, count in windows.items() if count > 1]
        self.over_rows += len(long)
        self.over_lines += _places(columns, long[: SHOWN_LINES - len(self.over_lines)])
        columns = {name: [values[number] for number in source] for name, values in columns.items()}
        return tokens, {**columns, "text": parts}

    def _report(self) -> dict[str, Any]:
        lengths = np.frombuffer(self.lengths, dtype=np.int64)
        p50, p95 = np.percentile(lengths, [50, 95], method="higher")
        policy = self.limits.on_overlength
        facts: dict[str, Any] = {
            "rows_encoded": len(lengths),
            "rows_kept": self.kept,
            "tokens": {"p50": int(p50), "p95": int(p95), "max": int(lengths.max()), "kept": self.tokens_kept},
            "overlength": {
                "policy": policy,
                "max_tokens": self.limits.max_tokens,
                "rows": self.over_rows,
                "share": self.over_rows / len(lengths),
                "tokens_lost": self.tokens_lost,
                "lines": self.over_lines,
            },
        }
        if self.estimated:
            facts["tokens"]["estimated_rows"] = self.estimated
        if self.supervised:
            share = self.supervised / max(1, self.tokens_kept + self.decoded)
            facts["supervised"] = {"tokens": self.supervised, "share": share}
        if self.idle_rows:
            facts["unsupervised"] = {"rows": self.idle_rows, "lines": self.idle_lines}
        facts |= {name: getattr(self.encode, name)() for name in ("example", "told") if hasattr(self.encode, name)}
        if self.unknown_id is not None:
            facts["unknown_share"] = self.unknown / max(1, self.tokens_kept)
        return facts


def _places(columns: dict[str, list[Any]], rows: Sequence[int]) -> list[str]:
    """`file:line` of some rows."""
    return [f"{columns['file'][row]}:{columns['line'][row]}" for row in rows]


def target_type(targets: Sequence[Any] | None) -> pyarrow.DataType | None:
    """The Arrow type of targets: ids, lists of ids, or numbers."""
    if targets is None:
        return None
    if any(isinstance(target, list) for target in targets):
        return pyarrow.list_(pyarrow.int64())
    return pyarrow.float64() if any(isinstance(target, float) for target in targets) else pyarrow.int64()

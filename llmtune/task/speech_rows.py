"""Rows of recordings as encoders hand them on: how long they are heard, where they lie, and what is said in them.

The sound itself is no part of a row: `Recordings.complete` reads it when a batch is made of the row.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, DataError, Fault
from llmtune.core.types import Batch
from llmtune.data.forms.audio import length_of, read
from llmtune.data.forms.values import BadValue
from llmtune.data.tokens.answer_rows import columns_of, sequence_row

if TYPE_CHECKING:
    import numpy as np

    from llmtune.model.hearing import Hearing

PATH, HEARD, SPELLED = "recording", "heard", "spelled"
"""facts of a row: the bytes of the path; samples that are read; frames that a CTC model needs for its characters"""
PROBE_S = 2
FRAME_S = 0.02
"""of these models, near enough for a message"""
SHOWN_LINES = 20
SHOWN_CHARS = 12


def files_state(raw: Any) -> tuple[str, dict[str, float]]:
    """What tells whether any recording was changed since, and the hours of each split.

    Raises:
        DataError: recordings that are not there any more, by file and line.
    """
    digest, hours, faults = hashlib.sha256(), {}, []
    for split, rows in raw.splits.items():
        seconds = 0.0
        for batch in rows.with_format(None).iter(1000):
            for path, file, line in zip(batch["audio"], batch["file"], batch["line"]):
                try:
                    state = os.stat(path)
                    seconds += length_of(Path(path)).seconds
                except (OSError, BadValue) as error:
                    faults.append(Fault(f"{file}:{line}", str(error)))
                    continue
                digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
        hours[split] = seconds / 3600
    if faults:
        raise DataError(*faults[:SHOWN_LINES])
    return digest.hexdigest(), hours


class Recordings:
    """Length and place of recordings in rows; their sound, once they are in a batch."""

    def __init__(self, hearing: Hearing):
        self.hearing = hearing

    def row(self, path: str, max_frames: int | None) -> dict[str, Any]:
        """`input_ids` stand for frames: there is one 0 for each. Raises DataError: the recording can't be read."""
        try:
            length = length_of(Path(path))
        except BadValue as bad:
            raise DataError(Fault(path, str(bad))) from None
        samples = math.ceil(length.samples * self.hearing.rate / length.rate)
        frames = self.hearing.frames(samples)
        if max_frames is not None and frames > max_frames:
            frames, samples = max_frames, min(samples, self.hearing.samples(max_frames))
        return {"input_ids": [0] * max(1, frames), PATH: list(path.encode()), HEARD: [samples]}

    def beginnings(self, paths: Sequence[str]) -> list[np.ndarray]:
        return [read(Path(path), self.hearing.rate, PROBE_S * self.hearing.rate) for path in paths]

    def complete(self, batch: Batch) -> None:
        """Put the features of a batch's recordings in the place of `input_ids`. DataError: one can't be read."""
        sounds = []
        for path_bytes, (samples,) in zip(batch.facts[PATH], batch.facts[HEARD]):
            path = bytes(path_bytes).decode()
            try:
                sounds.append(read(Path(path), self.hearing.rate, samples))
            except BadValue as bad:
                raise DataError(Fault(path, str(bad))) from None
        view = batch.views["clean"]
        rest = {name: values for name, values in view.items() if name not in ("input_ids", "attention_mask")}
        batch.views["clean"] = {**self.hearing.features(sounds), **rest}
        if self.hearing.writes and batch.real_tokens:  # the whole window is paid for, whatever is in it
            window = len(sounds) * self.hearing.most_frames
            batch.padded_tokens = window + (rest["decoder_input_ids"].numel() if "decoder_input_ids" in rest else 0)
            batch.real_tokens += sum(self.hearing.frames(len(sound)) for sound in sounds) - window


def _refuse_cut(max_frames: int | None, allowed: bool) -> None:
    """Raises ConfigError where recordings of training would be cut, and their transcripts not."""
    if max_frames is not None and not allowed:
        raise ConfigError(
            Fault("data.on_overlength", f"truncate, and recordings longer than {max_frames} frames "
                  f"({max_frames * FRAME_S:g} s) would be cut, but what is said in them would not", "error, drop",
                  "type data.on_overlength=drop")
        )  # fmt: skip


class WrittenSpeech:
    """Encodes rows for an encoder-decoder: what is said as word pieces after `start`, up to the stop token."""

    keeps_answers = True

    def __init__(self, recordings: Recordings, tokenizer: Any, start: Sequence[int], *, cuts: bool):
        self.recordings, self.tokenizer, self.start, self.cuts = recordings, tokenizer, list(start), cuts

    def __call__(self, columns: Mapping[str, Sequence[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
        _refuse_cut(max_tokens, self.cuts)
        texts: Sequence[Any] = columns.get("transcript") or [None] * len(columns["audio"])
        rows = []
        for path, text in zip(columns["audio"], texts):
            heard = self.recordings.row(path, max_tokens)
            target = None
            if text is not None:
                ids = self.tokenizer(text.strip(), add_special_tokens=False)["input_ids"]
                target = [*ids, self.tokenizer.eos_token_id]
            rows.append({**heard, **sequence_row(heard["input_ids"], target, self.start)})
        most = self.recordings.hearing.most_frames  # the encoder hears its whole window, whatever is in it
        costs = [most + len(row.get("decoder_input_ids", ())) for row in rows]
        return {**columns_of(rows), "length": costs}


class SpelledSpeech:
    """Encodes rows for a CTC model: what is said in the characters that it knows."""

    def __init__(self, recordings: Recordings, tokenizer: Any, *, cuts: bool):
        self.recordings, self.tokenizer, self.cuts = recordings, tokenizer, cuts
        self._left_out: Counter[str] = Counter()
        names = "".join(token for token in tokenizer.get_vocab() if len(token) == 1)
        self._case = str.upper if names == names.upper() != names.lower() else str
        if names == names.lower() != names.upper():
            self._case = str.lower

    def __call__(self, columns: Mapping[str, Sequence[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
        _refuse_cut(max_tokens, self.cuts)
        texts: Sequence[Any] = columns.get("transcript") or [None] * len(columns["audio"])
        rows = []
        for path, text in zip(columns["audio"], texts):
            row = self.recordings.row(path, max_tokens)
            if text is not None:
                ids = self.spelled(text)
                twins = sum(one == other for one, other in itertools.pairwise(ids))  # a blank must stand between them
                row |= {"target": ids, SPELLED: [len(ids) + twins]}
            rows.append(row)
        return {**columns_of(rows), "length": [len(row["input_ids"]) for row in rows]}

    def spelled(self, text: str) -> list[int]:
        """The characters of a text in the case that the model writes; those that it does not know are left out."""
        text = " ".join(self._case(unicodedata.normalize("NFC", text)).split())
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        unknown, word_end = self.tokenizer.unk_token_id, self.tokenizer.convert_tokens_to_ids(self.word_end)
        if len(ids) == len(text):
            self._left_out.update(char for char, id in zip(text, ids) if id == unknown)
        kept = [id for id in ids if id != unknown]
        inside = [id for at, id in enumerate(kept) if id != word_end or (at and kept[at - 1] != word_end)]
        return inside[:-1] if inside[-1:] == [word_end] else inside

    @property
    def word_end(self) -> str:
        return str(self.tokenizer.init_kwargs["word_delimiter_token"])

    def told(self) -> list[str]:
        left = [f"{char!r} {count}x" for char, count in self._left_out.most_common(SHOWN_CHARS)]
        more = len(self._left_out) - len(left)
        self._left_out.clear()
        what = ", ".join(left) + (f" and {more} more" if more > 0 else "")
        return [f"characters that the model can't write are left out of transcripts: {what}"] if left else []


def refuse_unfit(splits: Mapping[str, Any], most_written: int | None) -> None:
    """Raises DataError, by file and line: transcripts that a model can't write, be a recording heard right.

    Args:
        most_written: tokens that the decoder has room for; None: a character needs a frame (CTC).
    """
    faults = [
        Fault(f"{file}:{line}", reason)
        for split, rows in splits.items()
        for file, line, reason in _unfit(rows, most_written)
    ]
    if faults:
        more = f" ({len(faults)} rows, {SHOWN_LINES} shown)" if len(faults) > SHOWN_LINES else ""
        raise DataError(*faults[:SHOWN_LINES], f"take these rows out, or mend their transcripts{more}")


def _unfit(rows: Any, most_written: int | None) -> Iterator[tuple[str, int, str]]:
    names = ["file", "line", "input_ids", *(["decoder_input_ids"] if most_written else [SPELLED])]
    for batch in rows.with_format(None).select_columns(names).iter(1000):
        for file, line, frames, needed in zip(*(batch[name] for name in names)):
            if most_written is not None and len(needed) > most_written:
                yield file, line, f"the transcript has {len(needed)} tokens, the model writes {most_written} at most"
            elif most_written is None and not needed[0]:
                yield file, line, "the model can write no character of the transcript"
            elif most_written is None and needed[0] > len(frames):
                yield (file, line, f"the transcript needs {needed[0]} frames, the recording has {len(frames)}: is it "
                       "of another one?")  # fmt: skip

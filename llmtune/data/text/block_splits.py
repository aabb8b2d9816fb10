"""Splits of plain text as blocks: files opened, their token file written or found in the cache, blocks cut."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmtune.config.settings import DataSettings
from llmtune.core.errors import DataError, Fault
from llmtune.data import cache, columns
from llmtune.data.files.sources import find_sources
from llmtune.data.roles import TEXT
from llmtune.data.rows import content_of, given_splits
from llmtune.data.split_build import SPLITS, SplitBuild, SplitRecord, collect, shares_of
from llmtune.data.text import blocks, text_stream, token_file
from llmtune.data.text.blocks import Cut, open_blocks, write_blocks
from llmtune.data.text.text_stream import TextStream
from llmtune.data.text.token_file import Ending, TokenFile, write_tokens
from llmtune.data.tokens.encode import EncodedSplits

TOKENIZER_CHARS = 50_000_000
"""of the training text from which a tokenizer is made, at most: its trainer keeps every word that it has seen"""
FEWEST_TOKENS = 2
READ_SETTINGS = (
    "columns", "format", "delimiter", "quote", "encoding", "header", "limit", "on_bad_row", "max_bad_rows",
)  # fmt: skip
Log = Callable[[str], None]


class TokenizerTexts:
    """The texts that a tokenizer is trained on, as batches of rows."""

    def __init__(self, stream: TextStream):
        self.stream = stream

    def iter(self, size: int) -> Iterator[dict[str, list[str]]]:
        for text in self.stream.texts(TOKENIZER_CHARS):
            yield {"text": [text]}


@dataclass(frozen=True)
class TextSplits:
    """Plain text that was opened and not yet read, by split; what data.rows.RawSplits is to rows."""

    streams: dict[str, TextStream]
    """of the splits that were named; others are the end of train"""
    settings: DataSettings
    shares: dict[str, float]
    wanted: list[str]
    report: dict[str, Any]
    """is filled while the text is read"""
    fingerprint: str
    keys: dict[str, dict[str, Any]]
    """by split: what the token file of its text hangs on, besides the tokenizer"""

    @property
    def splits(self) -> dict[str, TokenizerTexts]:
        return {split: TokenizerTexts(stream) for split, stream in self.streams.items()}


def open_texts(
    settings: DataSettings, documents: str, *, only: Sequence[str] | None = None,
    should_stop: Callable[[], bool] = lambda: False, offline: bool = False,
) -> TextSplits:  # fmt: skip
    """Looks into the files that the settings name. DataError with all faults."""
    from llmtune.data.files import hub

    wanted = [split for split in SPLITS if split in (only or SPLITS)]
    given = given_splits(settings, wanted)
    found = collect({split: partial(find_sources, split, item, settings.format) for split, item in given.items()})
    found = {
        split: [hub.load(source, split, offline) if source.format == "hub" else source for source in listed]
        for split, listed in found.items()
    }
    build = SplitBuild(settings, (TEXT,), wanted, Path(), should_stop)
    opened = collect({
        f"{split}/{n}": build.opener(source) for split, all_ in found.items() for n, source in enumerate(all_)
    })  # fmt: skip
    plain = dataclasses.asdict(settings)
    code = cache.code_version(sys.modules[__name__], text_stream, token_file, blocks, columns)
    common = {"settings": {name: plain[name] for name in READ_SETTINGS}, "documents": documents, "code": code}
    keys = {
        split: {**common, "content": [(source.shown, content_of(source)) for source in all_]}
        for split, all_ in found.items()
    }
    streams = {
        split: TextStream(all_, [opened[f"{split}/{n}"] for n in range(len(all_))], settings, documents, should_stop)
        for split, all_ in found.items()
    }
    shares = {split: share for split, share in shares_of(settings).items() if share > 0}
    fingerprint = cache.key_of({"splits": keys, "shares": shares, "wanted": wanted})
    return TextSplits(streams, settings, shares, wanted, {"splits": {}, "overlap": {}}, fingerprint, keys)


def encode_blocks(
    raw: TextSplits, tokenizer: Any, tokenizer_sha: str, max_tokens: int, *, next_words: bool,
    log: Log = lambda line: None, progress: Log = lambda line: None,
) -> EncodedSplits:  # fmt: skip
    """The blocks of all splits: token files and what is known of blocks, from the cache where they are there.

    Args:
        next_words: is a token predicted from those before it? Then blocks overlap by one (see blocks.Cut), unless
            the tokenizer begins each text with a token from which its first word is predicted.
    Raises:
        DataError: rows that can't be read; a split that is too small for a share to be taken from it.
    """
    root = Path(raw.settings.cache_dir) if raw.settings.cache_dir else None
    ending, around = ending_of(tokenizer), edges_of(tokenizer)
    overlap = int(next_words and not around[0])
    splits, report = {}, {}
    for origin, stream in raw.streams.items():
        key = {**raw.keys[origin], "tokenizer": tokenizer_sha, "ending": ending}
        folder = cache.cached("token_file", key, partial(_make, stream, origin, tokenizer, ending, progress), root, log,
                              should_stop=stream.should_stop)  # fmt: skip
        tokens, record = TokenFile(folder), json.loads((folder / "record.json").read_text(encoding="utf-8"))
        for split, (begin, end) in _parts(raw, origin, len(tokens)).items():
            cut = Cut(begin, end, max_tokens, *around, overlap)
            make = partial(_cut, tokens, cut, record["files"], tokenizer)
            known = cache.cached("blocks", {**key, "cut": dataclasses.asdict(cut)}, make, root, log,
                                 should_stop=stream.should_stop)  # fmt: skip
            splits[split] = open_blocks(known / "blocks.arrow", tokens, cut)
            report[split] = _lengths(cut, tokens)
            raw.report["splits"][split] = _read(record, cut, None if split == origin else origin)
    for facts in (splits, report, raw.report["splits"]):  # in the order of SPLITS
        ordered = {split: facts[split] for split in SPLITS if split in facts}
        facts.clear()
        facts.update(ordered)
    facts = {"text": raw.fingerprint, "tokenizer": tokenizer_sha, "max_tokens": max_tokens, "overlap": overlap}
    return EncodedSplits(splits, report, cache.key_of(facts))


def _make(stream: TextStream, split: str, tokenizer: Any, ending: Ending, progress: Log, folder: Path) -> None:
    def tokenize(texts: list[str]) -> list[list[int]]:
        return tokenizer(
            texts, add_special_tokens=False, verbose=False, return_attention_mask=False, return_token_type_ids=False
        )["input_ids"]

    record = SplitRecord()
    for table, chosen in stream.tables:
        names = {role: column.key for role, column in chosen.items()}
        record.found.append({"file": table.shown, **table.found, "columns": names})
    write_tokens(folder, stream.pieces(record), tokenize, ending, should_stop=stream.should_stop, log=progress)
    SplitBuild(stream.settings, (TEXT,), [split], folder, stream.should_stop).judge(split, record)
    facts = {
        "read": record.read, "dropped": record.dropped, "found": record.found,
        "files": [table.shown for table, _ in stream.tables],
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")


def _cut(tokens: TokenFile, cut: Cut, files: list[str], tokenizer: Any, folder: Path) -> None:
    write_blocks(folder / "blocks.arrow", tokens, cut, files, tokenizer)


def _parts(raw: TextSplits, origin: str, size: int) -> dict[str, tuple[int, int]]:
    """Stretches of a token file: its own split, and those that are taken from the end of train."""
    shares, end, found = raw.shares, size, {}
    if origin == "train":
        for split, share in reversed(shares.items()):
            begin = end - round(size * share)
            found[split], end = (begin, end), begin
    found[origin] = (0, end)
    small = [split for split, (begin, stop) in found.items() if stop - begin < FEWEST_TOKENS]
    if small:
        fix = " ".join(f"data.{split}_share=0" for split in shares) if origin == "train" and shares else ""
        given = f"{size} token(s) are too few" + (f" to take {' and '.join(shares)} from" if len(found) > 1 else "")
        raise DataError(Fault(f"data.{origin}", given, "", f"more text{', or ' + fix if fix else ''}"))
    return {split: part for split, part in found.items() if split in raw.wanted}


def ending_of(tokenizer: Any) -> Ending:
    """What stands behind each document: the token that ends a text, else the one that parts two."""
    end_id = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    return Ending(end_id, len(tokenizer), tokenizer.unk_token_id)


def edges_of(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that the tokenizer puts before and after a text."""
    ids = tokenizer("a")["input_ids"]
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    at = next((i for i in range(len(ids) - len(inner) + 1) if ids[i : i + len(inner)] == inner), 0)
    return tuple(ids[:at]), tuple(ids[at + len(inner) :])


def _lengths(cut: Cut, tokens: TokenFile) -> dict[str, Any]:
    """As data.tokens.token_rows tells of rows; nothing is too long here."""
    starts_N, ends_N = cut.spans(np.array([0, cut.num_blocks - 1]))
    first, last = ((ends_N - starts_N) + len(cut.before) + len(cut.after)).tolist()
    typical = first if cut.num_blocks > 1 else last
    return {
        "rows_encoded": cut.num_blocks, "rows_kept": cut.num_blocks,
        "tokens": {"p50": typical, "p95": typical, "max": max(first, last), "kept": cut.num_tokens},
        "overlength": {"policy": "split", "max_tokens": cut.max_tokens, "rows": 0, "share": 0.0, "tokens_lost": 0,
                       "lines": []},
        "unknown_share": tokens.facts["unknown"] / max(1, len(tokens)),
    }  # fmt: skip


def _read(record: dict[str, Any], cut: Cut, taken_from: str | None) -> dict[str, Any]:
    return {
        "rows_read": record["read"], "rows_kept": cut.num_blocks, "dropped": {} if taken_from else record["dropped"],
        **({"taken_from": taken_from} if taken_from else {}),
        "duplicates": {"rows": 0, "contradicting_texts": 0}, "found": record["found"],
        "blocks": {"texts": record["read"], "tokens": cut.num_tokens, "max_tokens": cut.max_tokens},
    }  # fmt: skip

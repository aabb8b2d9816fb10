"""Candidates drawn to stand against those that were chosen, where rows tell of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.seeds import generator
from llmtune.data.files.arrow_files import column_list
from llmtune.task.ranking_rows import groups_of, has

USUAL = {"train": 4, "evaluation": 20}
"""candidates drawn for a row where `auto` finds nothing but what was chosen"""
SMALL_POOL = 1024


def num_negatives(split: str, rows: Any, relevance: Sequence[Sequence[int]], setting: int | str) -> int:
    """How many candidates are drawn for a row of this split. ConfigError where rows list theirs themselves."""
    listed = has(rows, "choices")
    if isinstance(setting, str):
        chosen_alone = not listed and all(row[0] for row in relevance)
        return USUAL["train" if split == "train" else "evaluation"] if chosen_alone else 0
    if setting and listed:
        field = "task.negatives" if split == "train" else "task.eval_negatives"
        raise ConfigError(
            Fault(field, f"{setting}, but the rows of {split} list their candidates themselves",
                  "none are drawn for these", f"type {field}=auto")
        )  # fmt: skip
    return setting


def pair_number(group: str, candidate: str) -> int:
    """63 bits of a candidate of a group."""
    words = f"{group}\x1f{candidate}".encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "big") >> 1


def positives_of(rows: Any, relevance: Sequence[Sequence[int]]) -> np.ndarray:
    """The pairs of group and candidate that are relevant, as sorted numbers."""
    groups, candidates = groups_of(_columns(rows)), column_list(rows, "text_pair")
    known = {pair_number(g, c) for g, c, (grade, *_) in zip(groups, candidates, relevance) if grade}
    return np.array(sorted(known), dtype=np.int64)


def draw(
    rows: Any, relevance: Sequence[Sequence[int]], known: np.ndarray, *, number: int, first: int, seed: int
) -> tuple[list[list[int]], list[str]]:
    """For each relevant row up to `number` other candidates of these rows, none of them known as relevant for its
    group; and all candidates in the order by which they are numbered, from `first` on.

    What is drawn is a function of the seed, the row's group and candidate, and which candidates there are.
    """
    columns = _columns(rows)
    pool = sorted(set(columns["text_pair"]))
    drawn = []
    for group, own, (grade, *_) in zip(groups_of(columns), columns["text_pair"], relevance):
        chosen: list[int] = []
        for place in _distinct(generator(seed, "negatives", pair_number(group, own)), len(pool) if grade else 0):
            if len(chosen) == number:
                break
            pair = pair_number(group, pool[place])
            at = int(np.searchsorted(known, pair))
            if at == len(known) or known[at] != pair:
                chosen.append(first + place)
        drawn.append(chosen)
    return drawn, pool


def _distinct(rng: np.random.Generator, size: int) -> Iterator[int]:
    """All numbers below `size` in random order; of many the first ones cost little."""
    if size <= SMALL_POOL:
        yield from rng.permutation(size).tolist()
        return
    seen: set[int] = set()
    while len(seen) < size:
        place = int(rng.integers(size))
        if place not in seen:
            seen.add(place)
            yield place


def with_column(rows: Any, name: str, values: Iterable[Any]) -> Any:
    """The same rows, still memory-mapped, with a further column of JSON; a thousand values are held at a time."""
    import datasets

    texts, chunks = (json.dumps(value) for value in values), []
    while part := list(islice(texts, 1000)):
        chunks.append(pyarrow.array(part, pyarrow.string()))
    return datasets.Dataset(rows.data.table.append_column(name, pyarrow.chunked_array(chunks, pyarrow.string())))


def _columns(rows: Any) -> dict[str, list[Any]]:
    return {name: column_list(rows, name) for name in ("text", "text_pair", "group") if name in rows.column_names}

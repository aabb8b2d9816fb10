"""Which rows go where: automatic stratified splits, `data.limit`, texts that stand twice or in two splits.

Everything is a function of the seed and of the rows' content, so the order of a file changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmtune.core.seeds import fold

Keys = npt.NDArray[np.uint64]
MOST_CLASSES = 30
BINS = 10
PUNCTUATION = {
    code: None
    for code in (*range(0x3100), *range(0xFE30, 0xFF66))
    if unicodedata.category(chr(code))[0] in ("PZCS" if code < 128 else "PZC")
}
"""for str.translate, which is ten times as fast as a regular expression"""


def text_keys(*texts: str) -> tuple[int, int]:
    """64 bits of a row's texts, surrounding blanks apart; and 64 without punctuation, blanks and case."""
    exact = "\x1f".join([text.strip() for text in texts])
    near = "\x1f".join([text.translate(PUNCTUATION).casefold() for text in texts])
    return _bits(exact), _bits(near if near.strip("\x1f") else exact)


def _bits(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def draw_order(keys: Keys, seed: int, *words: str) -> Keys:
    """A random number for each key, by splitmix64 (Steele et al. 2014): equal keys get equal numbers."""
    with np.errstate(over="ignore"):
        z = (keys ^ np.uint64(fold(seed, *words))) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)), dtype=np.uint64)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def strata(labels: Sequence[str | None], delimiter: str | None = None) -> npt.NDArray[np.int64]:
    """A group for each row, from labels as JSON: the class; the rarest of several; a tenth of many numbers.

    All rows are one group where labels hardly repeat.
    """
    split = {raw: _words(raw, delimiter) for raw in set(labels)}
    counts: Counter[str] = Counter()
    for raw, times in Counter(labels).items():
        counts.update(dict.fromkeys(split[raw], times))
    if len(counts) > MOST_CLASSES and all(len(words) == 1 and is_number(words[0]) for words in split.values()):
        values = np.array([float(split[raw][0]) for raw in labels])
        return np.searchsorted(np.quantile(values, np.arange(1, BINS) / BINS), values).astype(np.int64)
    if len(counts) > MOST_CLASSES and 2 * len(counts) > len(labels):  # texts of choices: they are no classes
        return np.zeros(len(labels), dtype=np.int64)
    ranks = {word: rank for rank, word in enumerate(sorted(counts, key=lambda word: (counts[word], word)), 1)}
    groups = {raw: min((ranks[word] for word in words), default=0) for raw, words in split.items()}
    return np.array([groups[raw] for raw in labels], dtype=np.int64)


def _words(raw: str | None, delimiter: str | None) -> list[str]:
    label = json.loads(raw) if raw is not None else []
    if isinstance(label, list):
        return list(label)
    return [word.strip() for word in label.split(delimiter)] if delimiter else [label]


def allot(sizes: npt.NDArray[np.int64], total: int, *, spare_one: bool) -> npt.NDArray[np.int64]:
    """`total` items spread over groups in proportion to their sizes, by largest remainders.

    `spare_one`: each group keeps at least one item back; else each gets at least one, if `total` allows.
    """
    exact = sizes * (total / max(1, sizes.sum()))
    most = np.maximum(sizes - 1, 0) if spare_one else sizes
    least = np.minimum(sizes, 0 if spare_one or total < len(sizes) else 1)
    counts = np.clip(np.floor(exact).astype(np.int64), least, most)
    while missing := total - int(counts.sum()):
        room = most > counts if missing > 0 else counts > least
        if not room.any():
            break
        furthest = np.argsort((counts - exact) * np.sign(missing), kind="stable")
        chosen = furthest[room[furthest]][: abs(missing)]
        counts[chosen] += np.sign(missing)
    return counts


def part_rows(
    keys: Keys, groups: npt.NDArray[np.int64], shares: dict[str, float], seed: int
) -> dict[str, npt.NDArray[np.int64]]:
    """Row numbers of `train` and of each part in `shares`; rows with (nearly) the same text stay together.

    A part with a share above 0 gets at least one text, if more than one is there for train.
    """
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    unit_group = np.full(len(first), np.iinfo(np.int64).max)
    np.minimum.at(unit_group, inverse, groups)
    order = np.lexsort((draw_order(keys[first], seed, "split"), unit_group))
    _, starts, sizes = np.unique(unit_group[order], return_index=True, return_counts=True)
    taken = np.zeros_like(sizes)
    place = np.zeros(len(first), dtype=np.int64)
    for number, share in enumerate(shares.values(), 1):
        wanted = max(1, round(share * len(first))) if share > 0 and len(first) > len(shares) else 0
        counts = allot(sizes - taken, wanted, spare_one=True)
        for start, before, count in zip(starts, taken, counts):
            place[order[start + before : start + before + count]] = number
        taken += counts
    row_place = place[inverse]
    return {name: np.flatnonzero(row_place == number) for number, name in enumerate(["train", *shares])}


def limit_rows(
    rows: npt.NDArray[np.int64], keys: Keys, groups: npt.NDArray[np.int64], limit: int, seed: int
) -> npt.NDArray[np.int64]:
    """At most `limit` of `rows`, drawn at random within the groups, in their order."""
    if len(rows) <= limit:
        return rows
    own = groups[rows]
    order = np.lexsort((draw_order(keys[rows], seed, "limit"), own))
    _, starts, sizes = np.unique(own[order], return_index=True, return_counts=True)
    counts = allot(sizes, limit, spare_one=False)
    drawn = np.concatenate([order[start : start + count] for start, count in zip(starts, counts)])
    return np.sort(rows[drawn])


def duplicates(keys: Keys, labels: Sequence[str | None]) -> dict[str, int]:
    """Rows whose text stood before, and texts that carry different labels."""
    seen: dict[int, str | None] = {}
    contradicting = set()
    for key, label in zip(keys.tolist(), labels):
        if seen.setdefault(key, label) != label:
            contradicting.add(key)
    return {"rows": len(keys) - len(seen), "contradicting_texts": len(contradicting)}


def overlap(keys: dict[str, Keys], near: dict[str, Keys]) -> dict[str, dict[str, int]]:
    """For each pair of splits, how many rows of the second have a text that stands in the first, or nearly so."""
    names = list(keys)
    return {
        f"{one}/{two}": {"rows": shared(keys[one], keys[two]), "near_rows": shared(near[one], near[two])}
        for i, one in enumerate(names)
        for two in names[i + 1 :]
    }


def shared(one: Keys, two: Keys) -> int:
    """Items of `two` that stand in `one`."""
    return int(np.isin(two, one).sum())

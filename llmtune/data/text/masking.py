"""Which tokens of a row are hidden for masked-language modelling: single ones, whole words, or spans of words.

Legend: B rows, T tokens, V words of the vocabulary.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from llmtune.core.seeds import generator

IGNORED = -100
"""target of a position that is not predicted"""
SPAN_STOP, LONGEST_SPAN = 0.2, 10
"""spans have a geometric number of words, cut at ten: 3.8 on average (SpanBERT, arXiv 1907.10529)"""
CHINESE_STOP, LONGEST_CHINESE = 0.5, 3
"""without a segmenter, words of Chinese have one to three characters"""

Segmenter = Callable[[str], Sequence[str]]


class Masker:
    """Hides tokens of rows; all draws derive from a seed a row, so they don't depend on how batches are cut.

    `unit`: `token`; `word` (all pieces of a word together, arXiv 1906.08101); `span` (words in a row, arXiv
    1907.10529). Of what is hidden, `keep_share` stays as it is and `random_share` becomes any other token
    (BERT, arXiv 1810.04805). Chinese is written without blanks: `segmenter` cuts its runs of characters into words,
    else they are cut at random.
    """

    def __init__(
        self, tokenizer: Any, *, mask_share: float = 0.15, unit: str = "word", keep_share: float = 0.1,
        random_share: float = 0.1, segmenter: Segmenter | None = None,
    ):  # fmt: skip
        self.mask_share, self.unit, self.segmenter = mask_share, unit, segmenter
        self.keep_share, self.random_share = keep_share, random_share
        self.mask_id: int = tokenizer.mask_token_id
        self.tokens = list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
        self.special_V = np.zeros(len(self.tokens), dtype=bool)
        self.special_V[[i for i in tokenizer.all_special_ids if i < len(self.tokens)]] = True
        self.ordinary = np.flatnonzero(~self.special_V)
        self.joins_V, self.chinese_V = _kinds(self.tokens, tokenizer)

    def mask(
        self, ids_BT: torch.Tensor, real_BT: torch.Tensor | None, row_seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids with some hidden, and the ids that were there (-100 where nothing was): two tensors (B, T).

        `real_BT`: 0 at padding; None: there is none.
        """
        hidden_BT, targets_BT = ids_BT.numpy().copy(), np.full(ids_BT.shape, IGNORED, dtype=np.int64)
        for row, seed in enumerate(row_seeds):
            ids = ids_BT[row].numpy()
            free = ~self.special_V[ids]
            if real_BT is not None:
                free &= real_BT[row].numpy() != 0
            places = np.flatnonzero(free)
            if len(places):
                self._mask_row(ids, places, hidden_BT[row], targets_BT[row], generator(seed, "masked_lm"))
        return torch.from_numpy(hidden_BT), torch.from_numpy(targets_BT)

    def _mask_row(
        self, ids: np.ndarray, places: np.ndarray, hidden: np.ndarray, targets: np.ndarray, rng: np.random.Generator
    ) -> None:
        """Writes into `hidden` and `targets`."""
        most = max(1, round(self.mask_share * len(places)))
        for piece in self._chosen(ids, places, most, rng):
            targets[piece] = ids[piece]
            # a span becomes one thing or the other as a whole, words and tokens each for themselves
            draws = rng.random(1 if self.unit == "span" else len(piece))
            draws = np.broadcast_to(draws, len(piece))
            hidden[piece[draws >= self.keep_share]] = self.mask_id
            anything = piece[(draws >= self.keep_share) & (draws < self.keep_share + self.random_share)]
            hidden[anything] = rng.choice(self.ordinary, size=len(anything))

    def _chosen(self, ids: np.ndarray, places: np.ndarray, most: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Pieces to hide, `most` tokens together; a word that is longer than what is left is passed over."""
        words = np.split(places, len(places)) if self.unit == "token" else self.words(ids, places, rng)
        taken = np.zeros(len(words), dtype=bool)
        chosen: list[np.ndarray] = []
        left = most
        for start in rng.permutation(len(words)):
            length = min(LONGEST_SPAN, int(rng.geometric(SPAN_STOP))) if self.unit == "span" else 1
            span: list[np.ndarray] = []
            size = 0
            for at in range(start, min(len(words), start + length)):
                first = not chosen and not span  # something is hidden in every row, however long its words
                if taken[at] or (size + len(words[at]) > left and not first):
                    break
                span.append(words[at])
                size += len(words[at])
                taken[at] = True
            if span:
                chosen.append(np.concatenate(span))
                left -= size
            if left <= 0:
                break
        return chosen

    def words(self, ids: np.ndarray, places: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """`places` in groups: the pieces of each word."""
        begins = ~self.joins_V[ids[places]]
        begins[0] = True
        begins[1:] |= np.diff(places) > 1  # a special token between two pieces parts them
        chinese = self.chinese_V[ids[places]]
        begins |= chinese
        begins[1:] |= chinese[:-1]
        if chinese.any():
            self._join_chinese(ids, places, chinese, begins, rng)
        return np.split(places, np.flatnonzero(begins)[1:])

    def _join_chinese(
        self, ids: np.ndarray, places: np.ndarray, chinese: np.ndarray, begins: np.ndarray, rng: np.random.Generator
    ) -> None:
        """Puts characters of Chinese together to words: clears `begins` inside of them."""
        edges = np.flatnonzero(np.diff(np.concatenate([[0], chinese.astype(np.int8), [0]])))
        for start, stop in zip(edges[::2], edges[1::2]):
            at = start
            for length in self._lengths(ids[places[start:stop]], rng):
                begins[at + 1 : min(stop, at + length)] = False
                at += length

    def _lengths(self, ids: np.ndarray, rng: np.random.Generator) -> Sequence[int]:
        """Tokens of each word of a run of Chinese."""
        if self.segmenter is None:
            return [int(n) for n in np.minimum(LONGEST_CHINESE, rng.geometric(CHINESE_STOP, size=len(ids)))]
        pieces = [self.tokens[i].removeprefix("##").lstrip("\u2581") for i in ids]
        ends = set(np.cumsum([len(word) for word in self.segmenter("".join(pieces))]).tolist())
        lengths, size, chars = [], 0, 0
        for piece in pieces:
            size, chars = size + 1, chars + len(piece)
            if chars in ends:
                lengths.append(size)
                size = 0
        return [*lengths, *([size] if size else [])]


def _kinds(tokens: Sequence[str], tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """For each token: does it go on with the word before it, and is it Chinese (Japanese, Thai: no blanks either)?"""
    wordpiece = any(token.startswith("##") for token in tokens)
    metaspace = any(token.startswith("\u2581") for token in tokens)
    byte_level = any(token.startswith("\u0120") for token in tokens)
    bytes_of = _byte_letters() if byte_level and not wordpiece and not metaspace else None
    joins, chinese = np.zeros(len(tokens), dtype=bool), np.zeros(len(tokens), dtype=bool)
    for i, token in enumerate(tokens):
        text = token.removeprefix("##")
        if bytes_of is not None:
            text = bytes(bytes_of.get(letter, 63) for letter in token).decode(errors="ignore")
        bare = text.strip().lstrip("\u2581")
        chinese[i] = bool(bare) and all(_without_blanks(letter) for letter in bare)
        if wordpiece:
            joins[i] = token.startswith("##")
        elif metaspace or byte_level:
            starts = token[:1] == "\u2581" if metaspace else token[:1] in ("\u0120", "\u010a", "\u0109")
            # punctuation stands for itself, and so do the blanks before it
            joins[i] = not starts and not all(unicodedata.category(letter)[0] in "PSZ" for letter in bare or " ")
            joins[i] |= bytes_of is not None and not starts and not bare  # part of a character
    return joins, chinese


def _without_blanks(letter: str) -> bool:
    code = ord(letter)
    return 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0x20000 <= code <= 0x323AF or (
        0x3040 <= code <= 0x30FF or 0xF900 <= code <= 0xFAFF or 0x0E00 <= code <= 0x0E7F
    )  # fmt: skip


def bytes_of_tokens(tokenizer: Any) -> np.ndarray | None:
    """(V,) the bytes of text that each token stands for, of a tokenizer of bytes or characters; None: another one."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    letters, special = _byte_letters(), set(tokenizer.all_special_tokens)
    if "\u0120" not in tokens and all(len(token) == 1 for token in tokens if token not in special):
        return np.array([0 if token in special else len(token.encode()) for token in tokens])
    if "\u0120" not in tokens or any(token.startswith("\u2581") for token in tokens):
        return None
    return np.array([
        0 if token in special else len(token) if all(letter in letters for letter in token) else len(token.encode())
        for token in tokens
    ])  # fmt: skip


@cache
def _byte_letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for: printable ones for themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}

"""What is kept of a tagger's logits: a few numbers a word or a span, whatever the head.

Legend: B rows, R sequences, T tokens, K words of all rows, N words of the longest row, W widths, C classes.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from llmtune.core.types import Batch
from llmtune.data.tagging.encoding import NO_FIRST, READ
from llmtune.model import crf
from llmtune.task.tagging_losses import chains, laid_out, row_numbers, span_places


def signs_of(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The sign of each token, (R, T), and the row of each sequence, (R,)."""
    view = batch.views["clean"]
    tokens = view["input_ids"].shape[1]
    mask_RT = view.get("attention_mask")
    lengths = [tokens] * len(view["input_ids"]) if mask_RT is None else mask_RT.sum(1).tolist()
    each = iter(lengths)
    cuts = [list(itertools.islice(each, count)) for count in batch.num_sequences]
    device = view["input_ids"].device
    return laid_out(batch.facts["words"], cuts, NO_FIRST).to(device), row_numbers(cuts).to(device)


def tag_outputs(logits_RTC: torch.Tensor, batch: Batch) -> list[np.ndarray]:
    """Of each word its likeliest tag and the chance of that: (words, 2) a row."""
    signs_RT, row_R = signs_of(batch)
    read_RT = signs_RT == READ
    chances_K, tags_K = logits_RTC[read_RT].float().softmax(-1).max(-1)
    return _by_row(torch.stack([tags_K.float(), chances_K], -1), read_RT, row_R, len(batch.row_ids))


def chain_outputs(logits_RTPP: torch.Tensor, batch: Batch) -> list[np.ndarray]:
    """Of each word its tag in the best sequence, and the chance of that tag over all sequences: (words, 2) a row."""
    signs_RT, row_R = signs_of(batch)
    places_BN, lengths_B = chains(signs_RT == READ, row_R, len(batch.row_ids))
    potentials_BNPP = logits_RTPP.flatten(0, 1)[places_BN].float()
    tags_BN = crf.viterbi(potentials_BNPP, lengths_B)
    chances_BN = crf.tag_marginals(potentials_BNPP, lengths_B).gather(-1, tags_BN.unsqueeze(-1)).squeeze(-1)
    found_BN2 = torch.stack([tags_BN.float(), chances_BN], -1).cpu().numpy()
    return [row_N2[:length] for row_N2, length in zip(found_BN2, lengths_B.tolist())]


def span_outputs(logits_RTWC: torch.Tensor, batch: Batch) -> list[np.ndarray]:
    """The spans that are rather an entity than none: first word, number of words, type, chance: (spans, 4) a row."""
    signs_RT, row_R = signs_of(batch)
    chances_RTW, types_RTW = logits_RTWC.float().softmax(-1).max(-1)
    found_RTW = span_places(signs_RT, logits_RTWC.shape[2]) & (types_RTW != 0)
    sequence_K, first_K, over_K = found_RTW.nonzero(as_tuple=True)
    read_RT = signs_RT == READ
    rows_K = row_R[sequence_K]
    words_B = torch.bincount(row_R, weights=read_RT.sum(1).double(), minlength=len(batch.row_ids)).long()
    before_B = words_B.cumsum(0) - words_B
    order_RT = (read_RT.flatten().cumsum(0) - 1).view(read_RT.shape)
    firsts_RT = (signs_RT != NO_FIRST).cumsum(1)
    numbers_K4 = torch.stack([
        (order_RT[sequence_K, first_K] - before_B[rows_K]).double(),
        (firsts_RT[sequence_K, first_K + over_K] - firsts_RT[sequence_K, first_K] + 1).double(),
        types_RTW[found_RTW].double(), chances_RTW[found_RTW].double(),
    ], dim=-1)  # fmt: skip
    counts_B = torch.bincount(rows_K, minlength=len(batch.row_ids))
    return np.split(numbers_K4.float().cpu().numpy(), counts_B.cumsum(0)[:-1].tolist())


def _by_row(found_K2: torch.Tensor, read_RT: torch.Tensor, row_R: torch.Tensor, num_rows: int) -> list[np.ndarray]:
    words_B = torch.bincount(row_R, weights=read_RT.sum(1).double(), minlength=num_rows).long()
    return np.split(found_K2.cpu().numpy(), words_B.cumsum(0)[:-1].tolist())

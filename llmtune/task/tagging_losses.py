"""What taggers are trained on: tensors made of targets, and losses as functions of logits and those.

Targets are what data.tagging.encoding makes. A word's place is its first piece, in the window where it is read: the
words of a row lie in several of its sequences, and are a chain all the same.

Legend: B rows, R sequences, T tokens, K words of all rows, N words of the longest row, C tags, P = C + 1, W widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from llmtune.data.tagging.encoding import NO_FIRST, NOT_SCORED, READ
from llmtune.model import crf
from llmtune.task.losses import divergence_by_row, loss_by_row

Targets = Mapping[str, torch.Tensor]


def laid_out(flat: Sequence[Sequence[int]], cuts: Sequence[Sequence[int]], empty: int) -> torch.Tensor:
    """Flat lists, one a row, as (R, T): each sequence of `cuts` on a line of its own, `empty` behind its end."""
    lengths = [length for row in cuts for length in row]
    laid_RT = torch.full((len(lengths), max(lengths)), empty, dtype=torch.long)
    numbers = torch.tensor([number for row in flat for number in row], dtype=torch.long)
    at = 0
    for sequence, length in enumerate(lengths):
        laid_RT[sequence, :length] = numbers[at : at + length]
        at += length
    return laid_RT


def row_numbers(cuts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Of each sequence the row it belongs to: (R,)."""
    return torch.tensor([row for row, lengths in enumerate(cuts) for _ in lengths], dtype=torch.long)


def tag_targets(targets: Sequence[Sequence[int]], cuts: Sequence[Sequence[int]] | None) -> dict[str, torch.Tensor]:
    """`label` (R, T), -100 where nothing is scored, and `row` (R,)."""
    cuts = cuts or [[len(target)] for target in targets]
    return {"label": laid_out(targets, cuts, NOT_SCORED), "row": row_numbers(cuts)}


def row_weights(targets: Targets, share_B: torch.Tensor | None) -> torch.Tensor:
    """By how much each sequence counts: (R,)."""
    row_R = targets["row"]
    return torch.ones(len(row_R), device=row_R.device) if share_B is None else share_B.to(row_R.device)[row_R]


# ---- a tag a word, each by itself ----


def tag_losses(
    logits_RTC: torch.Tensor, targets: Targets, share_B: torch.Tensor | None, **options: Any
) -> torch.Tensor:
    """Sum of the cross-entropies of all words; `options` as for task.losses.loss_by_row."""
    scored_RT = targets["label"] != NOT_SCORED
    losses_K = loss_by_row("single_label", logits_RTC[scored_RT].float(), targets["label"][scored_RT], **options)
    weights_RT = row_weights(targets, share_B).unsqueeze(1).expand(scored_RT.shape)
    return (losses_K * weights_RT[scored_RT]).sum()


def tag_divergence(first_RTC: torch.Tensor, second_RTC: torch.Tensor, targets: Targets) -> torch.Tensor:
    """How far two predictions are apart at each word: (K,)."""
    scored_RT = targets["label"] != NOT_SCORED
    return divergence_by_row("single_label", first_RTC[scored_RT].float(), second_RTC[scored_RT].float())


# ---- tags as a chain ----


def chains(signs_RT: torch.Tensor, row_R: torch.Tensor, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the words of each row lie, end to end over its sequences.

    Args:
        signs_RT: true where a word is read.
    Returns:
        Places in the R x T tokens, (B, N), 0 behind a row's last word; and the number of words of each row, (B,).
    """
    places_K = signs_RT.flatten().nonzero().squeeze(1)
    rows_K = row_R[places_K // signs_RT.shape[1]]
    lengths_B = torch.bincount(rows_K, minlength=num_rows)
    begins_B = lengths_B.cumsum(0) - lengths_B
    order_K = torch.arange(len(rows_K), device=rows_K.device) - begins_B[rows_K]
    places_BN = places_K.new_zeros(num_rows, int(lengths_B.max()) if num_rows else 0)
    places_BN[rows_K, order_K] = places_K
    return places_BN, lengths_B


def chain_losses(logits_RTPP: torch.Tensor, targets: Targets) -> torch.Tensor:
    """-log p of each row's tags: (B,)."""
    num_rows = int(targets["row"][-1]) + 1
    places_BN, lengths_B = chains(targets["label"] != NOT_SCORED, targets["row"], num_rows)
    potentials_BNPP = logits_RTPP.flatten(0, 1)[places_BN].float()
    tags_BN = targets["label"].flatten()[places_BN]
    return crf.negative_log_likelihood(potentials_BNPP, tags_BN, lengths_B)


def chain_divergence(first_RTPP: torch.Tensor, second_RTPP: torch.Tensor, targets: Targets) -> torch.Tensor:
    """How far two distributions over sequences of tags are apart: (B,)."""
    places_BN, lengths_B = chains(targets["label"] != NOT_SCORED, targets["row"], int(targets["row"][-1]) + 1)
    first_BNPP, second_BNPP = (each.flatten(0, 1)[places_BN].float() for each in (first_RTPP, second_RTPP))
    return crf.divergence(first_BNPP, second_BNPP, lengths_B)


# ---- spans ----


def span_places(signs_RT: torch.Tensor, width: int) -> torch.Tensor:
    """Which spans are scored: from a word that is read to a first piece of the same sequence, (R, T, W)."""
    padded_RT = F.pad(signs_RT, (0, width - 1), value=NO_FIRST)
    ends_RTW = padded_RT.unfold(1, width, 1) != NO_FIRST
    return ends_RTW & (signs_RT == READ).unsqueeze(-1)


def span_targets(
    targets: Sequence[Sequence[int]], cuts: Sequence[Sequence[int]] | None, width: int
) -> dict[str, torch.Tensor]:
    """`label` (R, T, W): of the span from a token over so many tokens its type, 0 for none, -100 where no span can be;
    `words` (R,): how many words are read in each sequence; `row` (R,).

    An entity that is wider than the band, or not whole in a window, is not in it.
    """
    signs = [target[1 : 1 + target[0]] for target in targets]
    cuts = cuts or [[len(row)] for row in signs]
    signs_RT = laid_out(signs, cuts, NO_FIRST)
    row_R = row_numbers(cuts)
    label_RTW = torch.full((*signs_RT.shape, width), NOT_SCORED).masked_fill(span_places(signs_RT, width), 0)
    places_BN, _ = chains(signs_RT == READ, row_R, len(targets))
    tokens = signs_RT.shape[1]
    for row, target in enumerate(targets):
        flat = target[1 + target[0] :]
        for start, size, kind in zip(flat[::3], flat[1::3], flat[2::3]):
            if size < 0:
                continue
            sequence, first = divmod(int(places_BN[row, start]), tokens)
            last = _word_after(signs_RT[sequence], first, size - 1)
            if last is not None and last - first < width:
                label_RTW[sequence, first, last - first] = kind
    return {"label": label_RTW, "words": (signs_RT == READ).sum(1), "row": row_R}


def _word_after(signs_T: torch.Tensor, first: int, number: int) -> int | None:
    """Where the first piece of the word lies that is `number` words after the one at `first`."""
    later = (signs_T[first:] != NO_FIRST).nonzero().squeeze(1)
    return first + int(later[number]) if number < len(later) else None


def span_width(targets: Sequence[Sequence[int]], most: int) -> tuple[int, int, int]:
    """Tokens from the first of an entity to the beginning of its last word: the widest of train, at most `most`.

    Returns:
        The width, how many entities are wider or cut by their window, and how many there are.
    """
    widths: list[int] = []
    cut = 0
    for target in targets:
        signs, flat = target[1 : 1 + target[0]], target[1 + target[0] :]
        read = [place for place, sign in enumerate(signs) if sign == READ]
        firsts = [place for place, sign in enumerate(signs) if sign != NO_FIRST]
        number = {place: n for n, place in enumerate(firsts)}
        for start, size in zip(flat[::3], flat[1::3]):
            if size < 0:
                cut += 1
            else:
                widths.append(firsts[number[read[start]] + size - 1] - read[start] + 1)
    width = min(max(widths, default=1), most)
    return width, cut + sum(one > width for one in widths), cut + len(widths)


def span_losses(logits_RTWC: torch.Tensor, targets: Targets, share_B: torch.Tensor | None) -> torch.Tensor:
    """Sum of the cross-entropies of all spans that can be."""
    scored_RTW = targets["label"] != NOT_SCORED
    losses = F.cross_entropy(logits_RTWC[scored_RTW].float(), targets["label"][scored_RTW], reduction="none")
    weights_RTW = row_weights(targets, share_B)[:, None, None].expand(scored_RTW.shape)
    return (losses * weights_RTW[scored_RTW]).sum()


def span_divergence(first_RTWC: torch.Tensor, second_RTWC: torch.Tensor, targets: Targets) -> torch.Tensor:
    """How far two predictions are apart at each span that can be."""
    scored_RTW = targets["label"] != NOT_SCORED
    return divergence_by_row("single_label", first_RTWC[scored_RTW].float(), second_RTWC[scored_RTW].float())

"""Losses of the three heads: over windows as over the whole, by words, weighted by rows; spans there and back."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from llmtune.core.types import Batch
from llmtune.data.tagging.encoding import FIRST, NO_FIRST, NOT_SCORED, READ
from llmtune.data.tagging.windows import owners
from llmtune.model import crf
from llmtune.model.span_head import along_band
from llmtune.task import tagging_losses as losses
from llmtune.task.tagging_outputs import chain_outputs, span_outputs, tag_outputs
from llmtune.task.tagging_results import _apart

C = 3


def rows_of(rng: random.Random, num_rows: int = 3) -> tuple[list[list[int]], list[list[int]]]:
    """Signs of tokens, flat, and cuts of rows whose windows overlap; words have one or two pieces."""
    flat, cuts = [], []
    for _ in range(num_rows):
        num_words = rng.randint(2, 12)
        windows = [(0, num_words)]
        if num_words >= 6:
            windows = [(0, 5), (3, 8), (6, num_words)] if num_words > 8 else [(0, 5), (3, num_words)]
        signs: list[int] = []
        lengths = []
        pieces = [rng.randint(1, 2) for _ in range(num_words)]
        for (first, stop), (low, high) in zip(windows, owners(windows)):
            own = [NO_FIRST]
            for word in range(first, stop):
                own += [READ if low <= word < high else FIRST] + [NO_FIRST] * (pieces[word] - 1)
            signs += [*own, NO_FIRST]
            lengths.append(len(own) + 1)
        flat.append(signs)
        cuts.append(lengths)
    return flat, cuts


def batch_of(signs: list[list[int]], cuts: list[list[int]]) -> Batch:
    lengths = [length for row in cuts for length in row]
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    view = {"input_ids": torch.ones_like(mask), "attention_mask": mask}
    return Batch(list(range(len(cuts))), {"clean": view}, {}, num_sequences=[len(row) for row in cuts],
                 facts={"words": signs})  # fmt: skip


def read_places(signs: list[list[int]], cuts: list[list[int]]) -> list[list[tuple[int, int]]]:
    """(sequence, token) of each word that is read, by row: the slow way."""
    found, sequence = [], 0
    for row, lengths in zip(signs, cuts):
        places, at = [], 0
        for length in lengths:
            places += [(sequence, token) for token in range(length) if row[at + token] == READ]
            at, sequence = at + length, sequence + 1
        found.append(places)
    return found


@pytest.fixture(params=range(4))
def rows(request: pytest.FixtureRequest) -> tuple[list[list[int]], list[list[int]], list[list[tuple[int, int]]]]:
    torch.manual_seed(request.param)
    signs, cuts = rows_of(random.Random(request.param))
    return signs, cuts, read_places(signs, cuts)


def tag_targets(rows: Any) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
    signs, cuts, places = rows
    rng = random.Random(5)
    tags = [[rng.randrange(C) for _ in row] for row in places]
    targets = []
    for row, own in zip(signs, tags):
        ids = iter(own)
        targets.append([next(ids) if sign == READ else NOT_SCORED for sign in row])
    return losses.tag_targets(targets, cuts), tags


def test_tags_by_themselves(rows: Any) -> None:
    targets, tags = tag_targets(rows)
    logits_RTC = torch.randn(*targets["label"].shape, C)
    share_B = torch.tensor([1.0, 0.5, 2.0])
    wanted = sum(
        share * F.cross_entropy(torch.stack([logits_RTC[one] for one in places]), torch.tensor(own), reduction="sum")
        for share, places, own in zip(share_B, rows[2], tags)
    )
    torch.testing.assert_close(losses.tag_losses(logits_RTC, targets, share_B), wanted)
    found = tag_outputs(logits_RTC, batch_of(*rows[:2]))
    for places, numbers_K2 in zip(rows[2], found):
        chances = torch.stack([logits_RTC[place] for place in places]).softmax(-1).max(-1)
        np.testing.assert_allclose(numbers_K2, torch.stack([chances.indices, chances.values], -1).numpy(), rtol=1e-5)


def test_a_chain_runs_over_the_windows_of_its_row(rows: Any) -> None:
    targets, tags = tag_targets(rows)
    potentials = crf.pair_potentials(torch.randn(*targets["label"].shape, C), torch.randn(C + 1, C + 1))
    found_B = losses.chain_losses(potentials, targets)
    outputs = chain_outputs(potentials, batch_of(*rows[:2]))
    for row, (places, own) in enumerate(zip(rows[2], tags)):
        chain = torch.stack([potentials[place] for place in places])[None]
        length = torch.tensor([len(places)])
        torch.testing.assert_close(found_B[row], crf.negative_log_likelihood(chain, torch.tensor([own]), length)[0])
        best = crf.viterbi(chain, length)
        assert outputs[row][:, 0].tolist() == best[0].tolist()
        chances = crf.tag_marginals(chain, length)[0].gather(1, best.T).squeeze(1)
        np.testing.assert_allclose(outputs[row][:, 1], chances.numpy(), rtol=1e-4)
    assert losses.chain_divergence(potentials, potentials, targets).abs().max() < 1e-5


def some_spans(rng: random.Random, num_words: int) -> list[tuple[int, int, int]]:
    """Starts, sizes and types; nested ones among them, no two of the same words."""
    found = {}
    for _ in range(3):
        start = rng.randrange(num_words)
        size = rng.randint(1, min(2, num_words - start))
        found[start, size] = rng.randint(1, C - 1)
    return [(*span, kind) for span, kind in sorted(found.items())]


def span_rows(rows: Any) -> tuple[list[list[int]], list[list[tuple[int, int, int]]]]:
    rng = random.Random(9)
    spans = [some_spans(rng, len(places)) for places in rows[2]]
    return [[len(signs), *signs, *(n for span in own for n in span)] for signs, own in zip(rows[0], spans)], spans


def test_spans_there_and_back(rows: Any) -> None:
    targets, spans = span_rows(rows)
    width, wider, total = losses.span_width(targets, 64)
    assert (wider, total) == (0, sum(map(len, spans)))
    laid = losses.span_targets(targets, rows[1], width)
    label_RTW = laid["label"]
    assert int((label_RTW > 0).sum()) == total
    assert laid["words"].sum() == sum(map(len, rows[2]))
    logits_RTWC = F.one_hot(label_RTW.clamp(min=0), C) * 9.0
    for row, (found_K4, own) in enumerate(zip(span_outputs(logits_RTWC, batch_of(*rows[:2])), spans)):
        assert sorted(map(tuple, found_K4[:, :3].astype(int).tolist())) == own, row
    assert losses.span_losses(logits_RTWC, laid, None) < 0.1 * (label_RTW != NOT_SCORED).sum()


def test_only_spans_of_whole_words_are_scored(rows: Any) -> None:
    targets, _ = span_rows(rows)
    label_RTW = losses.span_targets(targets, rows[1], 4)["label"]
    lengths = [length for row in rows[1] for length in row]
    flat = [sign for row in rows[0] for sign in row]
    sequences, at = [], 0
    for length in lengths:
        sequences.append(flat[at : at + length])
        at += length
    for sequence, signs in enumerate(sequences):
        for token in range(label_RTW.shape[1]):
            for over in range(4):
                may = token + over < len(signs) and signs[token] == READ and signs[token + over] != NO_FIRST
                assert (label_RTW[sequence, token, over] != NOT_SCORED) == may


def test_a_span_wider_than_the_band_is_counted_and_left_out() -> None:
    target = [7, 0, 2, 0, 2, 2, 2, 0, 0, 4, 1, 1, 1, 2]
    assert losses.span_width([target], 64) == (5, 0, 2)
    assert losses.span_width([target], 3) == (3, 1, 2)
    label_RTW = losses.span_targets([target], None, 3)["label"]
    assert (label_RTW > 0).nonzero().tolist() == [[0, 3, 0]]


def test_band() -> None:
    values = torch.arange(10.0).view(1, 5, 2)
    band = along_band(values, 3)
    assert band.shape == (1, 5, 3, 2)
    for token in range(5):
        for over in range(3):
            wanted = values[0, token + over] if token + over < 5 else torch.zeros(2)
            torch.testing.assert_close(band[0, token, over], wanted)


def test_of_spans_that_overlap_the_likelier_stays() -> None:
    spans = [(0, 5, "X", 0.6), (1, 2, "Y", 0.9), (2, 4, "X", 0.5), (6, 7, "X", 0.8)]
    assert sorted(_apart(spans)) == [(1, 2, "Y", 0.9), (2, 4, "X", 0.5), (6, 7, "X", 0.8)]

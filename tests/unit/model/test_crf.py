"""The CRF against a walk over all sequences of tags."""

from __future__ import annotations

import itertools

import pytest
import torch

from llmtune.model import crf

LENGTHS = torch.tensor([4, 1, 3])
C = 3


@pytest.fixture
def potentials_BNPP() -> torch.Tensor:
    torch.manual_seed(0)
    emission_RTC, transition_PP = torch.randn(3, 4, C, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    return crf.pair_potentials(emission_RTC, transition_PP)


def all_scores(potentials_NPP: torch.Tensor, length: int) -> dict[tuple[int, ...], float]:
    found = {}
    for tags in itertools.product(range(C), repeat=length):
        score, before = 0.0, C
        for n, tag in enumerate(tags):
            score += float(potentials_NPP[n, before, tag])
            before = tag
        found[tags] = score + float(potentials_NPP[0, before, C])
    return found


def test_partition_likelihood_and_best_sequence(potentials_BNPP: torch.Tensor) -> None:
    best_BN = crf.viterbi(potentials_BNPP, LENGTHS)
    partition_B = crf.log_partition(potentials_BNPP, LENGTHS)
    gold_BN = torch.tensor([[0, 1, 2, 1], [2, -100, -100, -100], [1, 1, 0, -100]])
    loss_B = crf.negative_log_likelihood(potentials_BNPP, gold_BN, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        scores = all_scores(potentials_BNPP[row], length)
        wanted = torch.tensor(list(scores.values())).logsumexp(0)
        torch.testing.assert_close(partition_B[row], wanted.double())
        assert tuple(best_BN[row, :length].tolist()) == max(scores, key=lambda tags: scores[tags])
        gold = tuple(gold_BN[row, :length].tolist())
        torch.testing.assert_close(loss_B[row], (wanted - scores[gold]).double())


def test_marginals(potentials_BNPP: torch.Tensor) -> None:
    found_BNC = crf.tag_marginals(potentials_BNPP, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        scores = all_scores(potentials_BNPP[row], length)
        chances = torch.tensor(list(scores.values())).softmax(0).tolist()
        wanted_NC = torch.zeros(length, C, dtype=torch.float64)
        for tags, chance in zip(scores, chances):
            for n, tag in enumerate(tags):
                wanted_NC[n, tag] += chance
        torch.testing.assert_close(found_BNC[row, :length], wanted_NC, atol=1e-6, rtol=1e-5)
        assert found_BNC[row, length:].abs().sum() == 0


def test_divergence_is_that_over_all_sequences(potentials_BNPP: torch.Tensor) -> None:
    torch.manual_seed(1)
    emission_RTC, transition_PP = torch.randn(3, 4, C, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    other_BNPP = crf.pair_potentials(emission_RTC, transition_PP)
    found_B = crf.divergence(potentials_BNPP, other_BNPP, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        logs = [
            torch.tensor(list(all_scores(each[row], length).values()), dtype=torch.float64).log_softmax(0)
            for each in (potentials_BNPP, other_BNPP)
        ]
        wanted = ((logs[0].exp() - logs[1].exp()) * (logs[0] - logs[1])).sum() / 2
        torch.testing.assert_close(found_B[row], wanted)
    assert crf.divergence(potentials_BNPP, potentials_BNPP, LENGTHS).abs().max() == 0


def test_gradient_of_the_loss_is_marginals_less_gold(potentials_BNPP: torch.Tensor) -> None:
    potentials_BNPP.requires_grad_()
    gold_BN = torch.tensor([[0, 1, 2, 1], [2, 0, 0, 0], [1, 1, 0, 0]])
    crf.negative_log_likelihood(potentials_BNPP, gold_BN, LENGTHS).sum().backward()
    marginals_BNPP = crf.pair_marginals(potentials_BNPP.detach(), LENGTHS)
    gold_BNPP = torch.zeros_like(marginals_BNPP)
    for row, length in enumerate(LENGTHS.tolist()):
        before = C
        for n, tag in enumerate(gold_BN[row, :length].tolist()):
            gold_BNPP[row, n, before, tag] = 1
            before = tag
    assert potentials_BNPP.grad is not None
    found, wanted = potentials_BNPP.grad[..., :C], (marginals_BNPP - gold_BNPP)[..., :C]
    torch.testing.assert_close(found, wanted)


def test_what_is_illegal_is_never_chosen_and_its_loss_stays_finite() -> None:
    transition_PP = torch.zeros(C + 1, C + 1)
    transition_PP[0, 1] = transition_PP[C, 1] = crf.ILLEGAL
    emission_RTC = torch.tensor([[[0.0, 50.0, 0.0], [9.0, 8.0, 0.0], [0.0, 50.0, 0.0]]])
    potentials_BNPP = crf.pair_potentials(emission_RTC, transition_PP)
    tags = crf.viterbi(potentials_BNPP, torch.tensor([3]))[0].tolist()
    assert tags[0] != 1
    assert (0, 1) not in itertools.pairwise(tags)
    assert torch.isfinite(crf.negative_log_likelihood(potentials_BNPP, torch.tensor([[1, 1, 1]]), torch.tensor([3])))

"""A linear-chain CRF as pure functions of pairwise log potentials (Lafferty et al. 2001; Lample et al., 1603.01360).

A potential says how well tag j goes at a word after tag i: transition[i, j] + emission[j]. Row C stands for the start,
column C for the end, so whatever the model learns of a sequence of words lies in one tensor.

Legend: R sequences, T tokens, B rows, N words, C tags.
"""

from __future__ import annotations

import torch

ILLEGAL = -1e4
"""log potential of what a scheme does not allow: far below all others, and finite in fp16"""


def pair_potentials(emission_RTC: torch.Tensor, transition_PP: torch.Tensor) -> torch.Tensor:
    """(R, T, C + 1, C + 1) from a score for each tag at each token, and for each step from tag to tag (P = C + 1)."""
    padded_RTP = torch.cat([emission_RTC, torch.zeros_like(emission_RTC[..., :1])], dim=-1)
    return transition_PP + padded_RTP.unsqueeze(-2)


def as_chain(potentials_BNPP: torch.Tensor, lengths_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """First scores (B, C), step scores (B, N - 1, C, C) that are 0 after the last word, end scores (B, C)."""
    C = potentials_BNPP.shape[-1] - 1
    N = potentials_BNPP.shape[1]
    start_BC = potentials_BNPP[:, 0, C, :C]
    steps_BNCC = potentials_BNPP[:, 1:, :C, :C]
    end_BC = potentials_BNPP[:, 0, :C, C]
    inside_BN = torch.arange(1, N, device=lengths_B.device) < lengths_B[:, None]
    return start_BC, steps_BNCC.masked_fill(~inside_BN[..., None, None], 0.0), end_BC


def forward_scores(potentials_BNPP: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """Log of the summed weights of all ways to each tag at each word: (B, N, C); behind a row's end as at its end."""
    start_BC, steps_BNCC, _ = as_chain(potentials_BNPP, lengths_B)
    scores = [start_BC]
    for n in range(steps_BNCC.shape[1]):
        onward_BC = torch.logsumexp(scores[-1].unsqueeze(-1) + steps_BNCC[:, n], dim=1)
        scores.append(torch.where((n + 1 < lengths_B)[:, None], onward_BC, scores[-1]))
    return torch.stack(scores, dim=1)


def backward_scores(potentials_BNPP: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """Log of the summed weights of all ways from each tag at each word to the end: (B, N, C)."""
    _, steps_BNCC, end_BC = as_chain(potentials_BNPP, lengths_B)
    scores = [end_BC]
    for n in reversed(range(steps_BNCC.shape[1])):
        back_BC = torch.logsumexp(scores[-1].unsqueeze(1) + steps_BNCC[:, n], dim=2)
        scores.append(torch.where((n + 1 < lengths_B)[:, None], back_BC, scores[-1]))
    return torch.stack(scores[::-1], dim=1)


def log_partition(potentials_BNPP: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """Log of the summed weights of all sequences of tags: (B,)."""
    end_BC = potentials_BNPP[:, 0, :-1, -1]
    return torch.logsumexp(forward_scores(potentials_BNPP, lengths_B)[:, -1] + end_BC, dim=-1)


def sequence_score(potentials_BNPP: torch.Tensor, tags_BN: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """Log weight of one sequence of tags a row: (B,). Tags behind a row's end are not looked at."""
    C = potentials_BNPP.shape[-1] - 1
    N = tags_BN.shape[1]
    inside_BN = torch.arange(N, device=lengths_B.device) < lengths_B[:, None]
    tags_BN = tags_BN.masked_fill(~inside_BN, 0)
    before_BN = torch.cat([torch.full_like(tags_BN[:, :1], C), tags_BN[:, :-1]], dim=1)
    index_BN = before_BN * (C + 1) + tags_BN
    steps_BN = potentials_BNPP.flatten(2).gather(2, index_BN.unsqueeze(-1)).squeeze(-1)
    last_B = tags_BN.gather(1, lengths_B[:, None] - 1).squeeze(1)
    end_B = potentials_BNPP[:, 0, :C, C].gather(1, last_B[:, None]).squeeze(1)
    return steps_BN.masked_fill(~inside_BN, 0.0).sum(1) + end_B


def negative_log_likelihood(
    potentials_BNPP: torch.Tensor, tags_BN: torch.Tensor, lengths_B: torch.Tensor
) -> torch.Tensor:
    """-log p(tags | row) of each row: (B,). Rows have at least one word."""
    return log_partition(potentials_BNPP, lengths_B) - sequence_score(potentials_BNPP, tags_BN, lengths_B)


def pair_marginals(potentials_BNPP: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """p(tag i at word n - 1, tag j at word n): (B, N, C + 1, C + 1), the first word's in row C; 0 behind the end."""
    C, N = potentials_BNPP.shape[-1] - 1, potentials_BNPP.shape[1]
    alpha_BNC = forward_scores(potentials_BNPP, lengths_B)
    beta_BNC = backward_scores(potentials_BNPP, lengths_B)
    start_BC, steps_BNCC, end_BC = as_chain(potentials_BNPP, lengths_B)
    total_B = torch.logsumexp(alpha_BNC[:, -1] + end_BC, dim=-1)
    inside_BN = torch.arange(N, device=lengths_B.device) < lengths_B[:, None]
    first_BC = (start_BC + beta_BNC[:, 0] - total_B[:, None]).exp()
    pairs_BNCC = alpha_BNC[:, :-1].unsqueeze(-1) + steps_BNCC + beta_BNC[:, 1:].unsqueeze(-2)
    pairs_BNCC = (pairs_BNCC - total_B[:, None, None, None]).exp().masked_fill(~inside_BN[:, 1:, None, None], 0.0)
    later_BNPP = torch.nn.functional.pad(pairs_BNCC, (0, 1, 0, 1))
    start_B1PP = torch.nn.functional.pad(first_BC[:, None, None, :], (0, 1, C, 0))
    return torch.cat([start_B1PP, later_BNPP], dim=1)


def tag_marginals(potentials_BNPP: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """p(tag j at word n | row): (B, N, C)."""
    return pair_marginals(potentials_BNPP, lengths_B).sum(2)[..., :-1]


def divergence(first_BNPP: torch.Tensor, second_BNPP: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """(KL(p || q) + KL(q || p)) / 2 of two distributions over sequences: (B,).

    The log partitions fall out of the sum: what is left is (marginals of p - of q) times (potentials of p - of q).
    """
    C = first_BNPP.shape[-1] - 1
    marginals = [pair_marginals(each, lengths_B) for each in (first_BNPP, second_BNPP)]
    apart_BNPP = first_BNPP - second_BNPP
    steps_B = ((marginals[0] - marginals[1]) * apart_BNPP)[..., :C].sum((1, 2, 3))
    ends = []
    for each_BNPP in marginals:  # p(last tag)
        last_B = lengths_B - 1
        ends.append(each_BNPP.sum(2)[torch.arange(len(last_B), device=last_B.device), last_B, :C])
    end_B = ((ends[0] - ends[1]) * apart_BNPP[:, 0, :C, C]).sum(-1)
    return (steps_B + end_B) / 2


def viterbi(potentials_BNPP: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """The best sequence of tags of each row: (B, N); what stands behind a row's end means nothing."""
    start_BC, steps_BNCC, end_BC = as_chain(potentials_BNPP, lengths_B)
    best_BC, ways = start_BC, []
    for n in range(steps_BNCC.shape[1]):
        onward_BC, way_BC = (best_BC.unsqueeze(-1) + steps_BNCC[:, n]).max(dim=1)
        inside_B1 = (n + 1 < lengths_B)[:, None]
        best_BC = torch.where(inside_B1, onward_BC, best_BC)
        # behind the end every tag comes from itself
        ways.append(torch.where(inside_B1, way_BC, torch.arange(way_BC.shape[1], device=way_BC.device)))
    tags = [(best_BC + end_BC).argmax(-1)]
    for way_BC in reversed(ways):
        tags.append(way_BC.gather(1, tags[-1][:, None]).squeeze(1))
    return torch.stack(tags[::-1], dim=1)

"""The losses of preferences as functions of log-probabilities: DPO, IPO, SimPO, ORPO, KTO; Bradley-Terry of rewards.

Each gives one number a pair (or answer), never a mean. A log-probability is that of a whole answer given its prompt, a
sum over its tokens; "per token" is that sum divided by their number.

Legend: P pairs, S answers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

LARGEST = -1e-6
"""a log-probability per token is taken to be at most this, so that odds stay finite"""


def dpo(log_ratio_P: torch.Tensor, beta: float, label_smoothing: float = 0.0) -> torch.Tensor:
    """-log sigmoid(beta h) (Rafailov et al., arXiv 2305.18290, equation 7), of each pair (P,).

    Args:
        log_ratio_P: h, by how much more the model prefers the chosen answer than the reference does:
            log(p(chosen) / ref(chosen)) - log(p(rejected) / ref(rejected)).
        label_smoothing: the share of pairs whose two answers are believed to be the wrong way round.
    """
    return -(1 - label_smoothing) * F.logsigmoid(beta * log_ratio_P) - label_smoothing * F.logsigmoid(
        -beta * log_ratio_P
    )


def ipo(log_ratio_P: torch.Tensor, beta: float) -> torch.Tensor:
    """(h - 1 / (2 beta))^2 (Azar et al., arXiv 2310.12036, equation 17), of each pair (P,).

    `log_ratio_P` as in `dpo`, but of log-probabilities per token: a gap of 1 / (2 beta) asked of sums would be asked
    of long answers and of short ones alike. That is how the authors advised TRL to compute it.
    """
    return (log_ratio_P - 1 / (2 * beta)) ** 2


def simpo(chosen_P: torch.Tensor, rejected_P: torch.Tensor, beta: float, gamma: float) -> torch.Tensor:
    """-log sigmoid(beta (chosen - rejected) - gamma), both per token (Meng et al., arXiv 2405.14734), of each pair."""
    return -F.logsigmoid(beta * (chosen_P - rejected_P) - gamma)


def log_odds(mean_logp: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) of p = exp(mean_logp)."""
    mean_logp = mean_logp.clamp(max=LARGEST)
    return mean_logp - torch.log(-torch.expm1(mean_logp))


def orpo(chosen_P: torch.Tensor, rejected_P: torch.Tensor, beta: float) -> torch.Tensor:
    """-chosen - beta log sigmoid(log odds ratio), both per token (Hong et al., arXiv 2403.07691), of each pair (P,).

    The first term is the usual loss of the chosen answer; `beta` is the paper's lambda.
    """
    return -chosen_P - beta * F.logsigmoid(log_odds(chosen_P) - log_odds(rejected_P))


def kto_zero(mismatched_S: torch.Tensor) -> torch.Tensor:
    """z0 of `kto`: how far the model has moved from the reference, from 0 on, without gradient.

    Args:
        mismatched_S: log(p / ref) of answers to other prompts than the one they stand behind; of a whole step.
    """
    if not len(mismatched_S):
        return mismatched_S.new_zeros(())
    return mismatched_S.detach().mean().clamp(min=0)


def kto(
    log_ratio_S: torch.Tensor, desirable_S: torch.Tensor, zero: torch.Tensor, beta: float, *,
    desirable_weight: float = 1.0, undesirable_weight: float = 1.0,
) -> torch.Tensor:  # fmt: skip
    """lambda - v (Ethayarajh et al., arXiv 2402.01306, equation 8), of each answer (S,).

    v is lambda_D sigmoid(beta (log(p / ref) - z0)) of answers that are wanted, and lambda_U sigmoid(beta (z0 -
    log(p / ref))) of others.

    Args:
        desirable_S: booleans.
    """
    side_S = torch.where(desirable_S, 1.0, -1.0).to(log_ratio_S)
    weight_S = torch.where(desirable_S, desirable_weight, undesirable_weight).to(log_ratio_S)
    return weight_S * (1 - torch.sigmoid(side_S * beta * (log_ratio_S - zero)))


def bradley_terry(chosen_P: torch.Tensor, rejected_P: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(r(chosen) - r(rejected)) of each pair's rewards (Ouyang et al., arXiv 2203.02155, equation 1)."""
    return -F.logsigmoid(chosen_P - rejected_P)


def rewards(loss: str, beta: float, logp: Any, tokens: Any, reference: Any) -> Any:
    """The reward that a loss gives an answer by: arrays or tensors of any shape, all alike.

    dpo and kto: beta log(p / ref); ipo: the same per token; simpo and orpo: beta log p per token.
    """
    if loss in ("simpo", "orpo"):
        return beta * logp / tokens
    return beta * (logp - reference) / (tokens if loss == "ipo" else 1)


def pair_losses(
    settings: Any, beta: float, chosen: tuple[torch.Tensor, ...], rejected: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """The loss that `settings.loss` names, of each pair (P,). Both sides: log-probabilities, numbers of tokens, and
    log-probabilities by the reference."""
    loss = settings.loss
    if loss in ("simpo", "orpo"):
        chosen_P, rejected_P = chosen[0] / chosen[1], rejected[0] / rejected[1]
        if loss == "simpo":
            return simpo(chosen_P, rejected_P, beta, settings.gamma)
        return orpo(chosen_P, rejected_P, beta)
    ratios = [
        (logp_P - reference_P) / (tokens_P if loss == "ipo" else 1)
        for logp_P, tokens_P, reference_P in (chosen, rejected)
    ]
    if loss == "ipo":
        return ipo(ratios[0] - ratios[1], beta)
    return dpo(ratios[0] - ratios[1], beta, settings.label_smoothing)

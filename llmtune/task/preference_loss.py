"""The loss of preferences over the sequences of a batch: which are compared with which, and what each counts.

Legend: B rows, S sequences, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from llmtune.core.types import Loss
from llmtune.task import preference_losses as losses
from llmtune.task.losses import divergence_by_row
from llmtune.task.preference_encoding import BAD, CHOSEN, GOOD, MISMATCHED, REJECTED

Targets = Mapping[str, torch.Tensor]
WITHOUT_REFERENCE = ("simpo", "orpo")


def shares(loss: str, targets: Targets, share_B: torch.Tensor | None = None) -> torch.Tensor:
    """What each of the compared counts: pairs (P,), for KTO judged answers. 0 where a reference that is asked for is
    not known."""
    places = _places(loss, targets)[0]
    known_S = torch.ones_like(targets["reference"])
    if loss not in WITHOUT_REFERENCE:
        known_S = torch.isfinite(targets["reference"]).to(known_S)
    return known_S[places] * (1 if share_B is None else share_B.to(known_S)[targets["row"][places]])


def _places(loss: str, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of the sequences: of chosen answers and of rejected ones; for KTO of judged ones and mismatched ones."""
    kind_S = targets["kind"]
    if loss != "kto":
        return (kind_S == CHOSEN).nonzero()[:, 0], (kind_S == REJECTED).nonzero()[:, 0]
    judged_S = torch.isin(kind_S, torch.tensor([*GOOD, *BAD], device=kind_S.device))
    return judged_S.nonzero()[:, 0], (kind_S == MISMATCHED).nonzero()[:, 0]


def total_loss(
    settings: Any, beta: float, scores_S2: torch.Tensor, targets: Targets, share_B: torch.Tensor | None = None
) -> Loss:
    """Sum over pairs, for KTO over judged answers.

    Args:
        scores_S2: log-probabilities and numbers of tokens.
    """
    first, second = _places(settings.loss, targets)
    share = shares(settings.loss, targets, share_B)
    # an unknown reference counts nothing, and must not be NaN in the gradient either
    triple = (*scores_S2.unbind(1), torch.nan_to_num(targets["reference"]).to(scores_S2))
    if settings.loss == "kto":
        ratio_S = triple[0] - triple[2]
        good = torch.isin(targets["kind"][first], torch.tensor(GOOD, device=first.device))
        each = losses.kto(
            ratio_S[first], good, losses.kto_zero(ratio_S[second]), beta,
            desirable_weight=settings.desirable_weight, undesirable_weight=settings.undesirable_weight,
        )  # fmt: skip
    else:
        each = losses.pair_losses(
            settings, beta, tuple(one[first] for one in triple), tuple(one[second] for one in triple)
        )
    total = (each * share).sum() + 0 * scores_S2.sum()  # a gradient, be there nothing to compare
    return Loss(total, torch.tensor(float(share.sum()), device=total.device))


def total_divergence(
    settings: Any, beta: float, first_S2: torch.Tensor, second_S2: torch.Tensor, targets: Targets
) -> Loss:
    """Symmetric KL between two views' chances, summed over pairs, for KTO over judged answers."""
    one, other = _places(settings.loss, targets)
    share = shares(settings.loss, targets)
    reference_S = torch.nan_to_num(targets["reference"]).to(first_S2)
    logits = []
    for scores_S2 in (first_S2, second_S2):
        reward_S = losses.rewards(settings.loss, beta, scores_S2[:, 0], scores_S2[:, 1], reference_S)
        logits.append(reward_S[one] if settings.loss == "kto" else reward_S[one] - reward_S[other])
    total = (divergence_by_row("multi_label", logits[0][:, None], logits[1][:, None]) * share).sum()
    return Loss(total, torch.tensor(float(share.sum()), device=total.device))

"""What comes out of a model of preferences: scores, what `predict` tells, the pairs that are judged most wrongly.

What is kept of a row is an array (S, 4), a line for each of its sequences: log-probability, tokens, log-probability by
the reference (NaN: not known), what it is (task.preference_encoding).

Legend: P pairs, S sequences.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from llmtune.data.forms.preference_rows import preference_of
from llmtune.task import preference_losses as losses
from llmtune.task.preference_encoding import BAD, CHOSEN, GOOD, MISMATCHED, REJECTED, UNWANTED, WANTED

if TYPE_CHECKING:
    from llmtune.scoring.predictions import Chunk, Predictions

TEXT_CHARS = 500
ROUNDING = 2e-6
"""of a log-probability: what it differs by, relatively, if its row stands in another batch"""


class Rule(NamedTuple):
    """By what answers are compared."""

    loss: str
    beta: float
    settings: Any

    def rewards(self, answers_S4: np.ndarray) -> np.ndarray:
        """(S,); NaN where the reference is asked for and not known."""
        logp_S, tokens_S, reference_S, _ = answers_S4.astype(np.float64).T
        return losses.rewards(self.loss, self.beta, logp_S, tokens_S, reference_S)

    def rounding(self, answers_S4: np.ndarray) -> np.ndarray:
        """(S,): by how much a reward may be wrong. Before training all rewards by a reference are that."""
        noise_S = ROUNDING * np.abs(answers_S4[:, 0].astype(np.float64))
        return losses.rewards(self.loss, self.beta, noise_S, answers_S4[:, 1].astype(np.float64), 0.0)


def scores(predictions: Predictions, rule: Rule) -> dict[str, float]:
    """Of pairs and of judged answers; what hangs on the reference only where that is known of all of them."""
    parts = [np.concatenate(chunk.outputs) for chunk in predictions.chunks()]
    all_S4 = np.concatenate(parts) if parts else np.zeros((0, 4), dtype=np.float32)
    by_kind = {kind: all_S4[all_S4[:, 3] == kind] for kind in (CHOSEN, REJECTED, WANTED, UNWANTED, MISMATCHED)}
    found: dict[str, float] = {}
    if len(by_kind[CHOSEN]):
        found |= _of_pairs(by_kind[CHOSEN], by_kind[REJECTED], rule)
    if len(by_kind[WANTED]) + len(by_kind[UNWANTED]):
        found |= _of_judged(by_kind[WANTED], by_kind[UNWANTED], rule)
    return found | (_kto(all_S4, rule) if rule.loss == "kto" else {})


def _of_pairs(chosen_P4: np.ndarray, rejected_P4: np.ndarray, rule: Rule) -> dict[str, float]:
    found: dict[str, float] = {}
    sides = {"chosen": chosen_P4, "rejected": rejected_P4}
    given = {side: rule.rewards(answers_P4) for side, answers_P4 in sides.items()}
    margins_P = given["chosen"] - given["rejected"]
    if np.isfinite(margins_P).all():
        noise_P = rule.rounding(chosen_P4) + rule.rounding(rejected_P4)
        clear_P = np.where(np.abs(margins_P) > noise_P, margins_P, 0.0)
        found = {"reward_accuracy": _share_above(clear_P), "reward_margin": float(margins_P.mean())}
        found |= {f"{side}_reward": float(values_P.mean()) for side, values_P in given.items()}
    per_token = {side: answers_P4[:, 0] / answers_P4[:, 1] for side, answers_P4 in sides.items()}
    found["logp_accuracy"] = _share_above(chosen_P4[:, 0] - rejected_P4[:, 0])
    found["token_logp_accuracy"] = _share_above(per_token["chosen"] - per_token["rejected"])
    return found | _means(sides)


def _of_judged(wanted_S4: np.ndarray, unwanted_S4: np.ndarray, rule: Rule) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    found: dict[str, float] = {}
    sides = {"desirable": wanted_S4, "undesirable": unwanted_S4}
    given = {side: rule.rewards(answers_S4) for side, answers_S4 in sides.items()}
    both = np.concatenate(list(given.values()))
    if np.isfinite(both).all():
        is_wanted = np.repeat([1, 0], [len(values) for values in given.values()])
        step = 4 * max(float(rule.rounding(answers_S4).max()) for answers_S4 in sides.values() if len(answers_S4))
        told_apart = 0 < is_wanted.sum() < len(both)
        found["reward_auc"] = float(roc_auc_score(is_wanted, np.round(both / step))) if told_apart else math.nan
        found |= {f"{side}_reward": float(values.mean()) for side, values in given.items() if len(values)}
    return found | _means({side: answers_S4 for side, answers_S4 in sides.items() if len(answers_S4)})


def _means(sides: Mapping[str, np.ndarray]) -> dict[str, float]:
    means = {}
    for side, answers_S4 in sides.items():
        means[f"{side}_logp"] = float(answers_S4[:, 0].astype(np.float64).mean())
        means[f"{side}_tokens"] = float(answers_S4[:, 1].astype(np.float64).mean())
    return means


def _share_above(margins_P: np.ndarray) -> float:
    """Share above 0, of ties the half."""
    return float((margins_P > 0).mean() + (margins_P == 0).mean() / 2)


def _kto(all_S4: np.ndarray, rule: Rule) -> dict[str, float]:
    """KTO's loss with the zero of all rows together, and that zero; nothing where the reference is not known."""
    kinds_S, ratio_S = all_S4[:, 3], torch.tensor(all_S4[:, 0] - all_S4[:, 2])
    judged_S, others_S = np.isin(kinds_S, (*GOOD, *BAD)), kinds_S == MISMATCHED
    if not judged_S.any() or not torch.isfinite(ratio_S).all():
        return {}
    zero = losses.kto_zero(ratio_S[torch.tensor(others_S)])
    own_S = losses.kto(
        ratio_S[torch.tensor(judged_S)], torch.tensor(np.isin(kinds_S[judged_S], GOOD)), zero, rule.beta,
        desirable_weight=rule.settings.desirable_weight, undesirable_weight=rule.settings.undesirable_weight,
    )  # fmt: skip
    return {"loss": float(own_S.mean()), "kto_zero": float(zero)}


def decoded(chunk: Chunk, rule: Rule) -> list[dict[str, Any]]:
    """For each row: which answer is preferred, by how much, by what that was told, and what is known of each answer.

    `by` is reward where the reference is known or not needed, else logp_per_token, which long answers and short ones
    may be compared by.
    """
    found = []
    for output_S4 in chunk.outputs:
        own_S4 = output_S4[output_S4[:, 3] != MISMATCHED].astype(np.float64)
        given_S, per_token_S = rule.rewards(own_S4), own_S4[:, 0] / own_S4[:, 1]
        known = bool(np.isfinite(given_S).all())
        told: dict[str, Any] = {"preferred": None, "margin": None}
        if len(own_S4) == 2:
            margin = float((given_S if known else per_token_S) @ [1, -1])
            told = {"preferred": "chosen" if margin > 0 else "rejected", "margin": round(margin, 6)}
        found.append({
            **told, "by": "reward" if known else "logp_per_token",
            "reward": _rounded(given_S) if known else None, "logp": _rounded(own_S4[:, 0]),
            "tokens": [int(count) for count in own_S4[:, 1]],
        })  # fmt: skip
    return found


def worst(predictions: Predictions, rule: Rule, most: int) -> list[dict[str, Any]]:
    """Pairs of which the rejected answer is preferred most; judged answers whose reward is farthest on the wrong
    side."""
    kept: list[tuple[float, int]] = []
    for chunk in predictions.chunks():
        gaps = [(_wrong(output, told), -(chunk.start + row))
                for row, (output, told) in enumerate(zip(chunk.outputs, decoded(chunk, rule)))]  # fmt: skip
        kept = heapq.nlargest(most, [*kept, *(gap for gap in gaps if gap[0] > 0)])
    rows = predictions.some([-number for _, number in kept])
    return [_told(rows, row, told) for row, told in enumerate(decoded(rows, rule))]


def _wrong(output_S4: np.ndarray, told: Mapping[str, Any]) -> float:
    if told["margin"] is not None:
        return -told["margin"]
    kind = output_S4[0, 3]
    if told["reward"] is None or kind not in (WANTED, UNWANTED):
        return 0.0
    return told["reward"][0] * (-1 if kind == WANTED else 1)


def _told(rows: Chunk, row: int, told: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: column[row] for name, column in rows.columns.items()}
    found = preference_of(values)
    answers = [" ".join(turn["content"] for turn in answer)[:TEXT_CHARS] for answer in found.answers]
    pair = len(answers) == 2
    gold = "chosen" if pair else "desirable" if found.desirable else "undesirable"
    return {
        "file": values["file"], "line": values["line"], "gold": gold, "predicted": told["preferred"] or "the other",
        "margin": told["margin"], "text": found.prompt[-1]["content"][:TEXT_CHARS],
        **(dict(zip(("chosen", "rejected"), answers)) if pair else {"answer": answers[0]}),
    }  # fmt: skip


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]

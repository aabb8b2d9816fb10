"""Reward models: a number for an answer to a prompt, higher for answers that people prefer, learnt from pairs.

Legend: S sequences of all rows of a batch, P pairs.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmtune.core.ranges import one_of
from llmtune.core.types import Loss
from llmtune.data.forms.preference_rows import PAIRS, RESPONSE, check_preference, preference_of
from llmtune.data.labels import Labelled

if TYPE_CHECKING:
    import torch

    from llmtune.data.rows import RawSplits
    from llmtune.scoring.predictions import Chunk, Predictions

METRICS = {"accuracy": "max", "margin": "max", "loss": "min"}
TEXT_CHARS = 500


@dataclass(frozen=True, kw_only=True)
class Reward:
    name: str
    kind: str
    metric: str
    template: str

    def __post_init__(self) -> None:
        one_of("metric", self.metric, ("auto", *METRICS))

    def build(self) -> RewardTask:
        return RewardTask(self)


class RewardTask:
    """One output for each answer; of a pair that of the chosen one shall be higher (Bradley-Terry)."""

    roles = (*PAIRS, RESPONSE)
    labels = None
    num_outputs = 1
    problem_type = "preference"
    check_row = staticmethod(check_preference)
    fields = ("preferred", "margin", "score")
    table_names = ("preferred", "margin", "chosen_score", "rejected_score")

    def __init__(self, settings: Reward):
        from llmtune.task.preference_template import KeptTemplate

        self.settings = settings
        self.metric = "accuracy" if settings.metric == "auto" else settings.metric
        self.mode = METRICS[self.metric]
        self.template = KeptTemplate(settings.template)

    # ---- data ----

    def read_labels(self, raw: RawSplits, label_names: Any, delimiter: str | None) -> Labelled:
        """Raises DataError, ConfigError: rows of train that are no pairs."""
        from llmtune.task.preference_encoding import CHOSEN, REJECTED, UNKNOWN, preferences
        from llmtune.task.preference_reading import refuse_single

        targets, facts = {}, {}
        for split, rows in raw.splits.items():
            sizes = [len(one.answers) for one in preferences(rows)]
            refuse_single(split, sizes)
            targets[split] = [[CHOSEN, REJECTED] if size == 2 else [UNKNOWN] for size in sizes]
            facts[split] = {"counts": {"pairs": len(sizes)}}
        return Labelled(self.problem_type, None, targets, facts)

    @property
    def encoding_key(self) -> dict[str, Any]:
        """What tokens hang on besides rows and tokenizer."""
        return self.template.key

    def new_tokens(self, tokenizer: Any) -> tuple[str, ...]:
        """Special tokens of a template that was asked for."""
        return () if self.settings.template == "auto" else self.template.new_tokens(tokenizer)

    @property
    def own_texts(self) -> list[str]:
        """What a tokenizer that is trained on the rows must know besides."""
        return self.template.own_texts

    def encoder(self, tokenizer: Any) -> Any:
        """`encode(columns, max_tokens)`: each answer with its prompt."""
        from llmtune.task.reward_encoding import RewardEncoder

        return RewardEncoder(tokenizer, self.template)

    def collate_targets(self, targets: Sequence[Any], cuts: Any = None) -> dict[str, torch.Tensor]:
        """`kind` (S,): chosen or rejected; `row` (S,): whose it is."""
        import torch

        kinds = [kind for row in targets for kind in row]
        rows = [number for number, row in enumerate(targets) for _ in row]
        return {"kind": torch.tensor(kinds), "row": torch.tensor(rows)}

    # ---- model and loss ----

    def model_class(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def config_values(self) -> dict[str, Any]:
        return {"num_labels": 1}

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        """Raises ConfigError where what is for classes is set."""
        from llmtune.task.class_options import refuse_class_options

        refuse_class_options(self.settings.name, options)

    def count(self, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None) -> float:
        """Pairs. Each counts by its row's share."""
        chosen = _chosen(targets)
        return float(len(chosen)) if share_B is None else float(share_B[targets["row"][chosen]].sum())

    def loss(
        self, rewards_S1: torch.Tensor, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None
    ) -> Loss:
        """Sum over pairs of -log sigmoid(reward of the chosen answer - reward of the rejected one)."""
        import torch

        from llmtune.task.preference_losses import bradley_terry

        chosen = _chosen(targets)
        reward_S = rewards_S1.float().squeeze(-1)
        losses_P = bradley_terry(reward_S[chosen], reward_S[chosen + 1])
        share_P = torch.ones_like(losses_P) if share_B is None else share_B.to(losses_P)[targets["row"][chosen]]
        return Loss((losses_P * share_P).sum(), share_P.sum())

    def divergence(self, first_S1: torch.Tensor, second_S1: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> Loss:
        """Sum over pairs of the symmetric KL between two views' chances that the chosen answer is preferred."""
        import torch

        from llmtune.task.losses import divergence_by_row

        chosen = _chosen(targets)
        margins = [one[chosen].float() - one[chosen + 1].float() for one in (first_S1, second_S1)]
        total = divergence_by_row("multi_label", *margins).sum()
        return Loss(total, torch.tensor(float(len(chosen)), device=total.device))

    # ---- results ----

    def score(self, predictions: Predictions) -> dict[str, float]:
        """Share of pairs whose chosen answer has the higher reward (of ties the half), and mean rewards."""
        found = [output.reshape(-1) for chunk in predictions.chunks() for output in chunk.outputs]
        pairs = [output for output in found if len(output) == 2]
        if not pairs:
            return {}
        chosen_P, rejected_P = np.stack(pairs).astype(np.float64).T
        margins_P = chosen_P - rejected_P
        return {
            "accuracy": float((margins_P > 0).mean() + (margins_P == 0).mean() / 2),
            "margin": float(margins_P.mean()), "chosen_score": float(chosen_P.mean()),
            "rejected_score": float(rejected_P.mean()),
        }  # fmt: skip

    def decode(self, chunk: Chunk) -> list[dict[str, Any]]:
        """For each row the scores of its answers; of two which is preferred, and by how much."""
        found = []
        for output in chunk.outputs:
            score = [round(float(value), 6) for value in output.reshape(-1)]
            margin = score[0] - score[1] if len(score) == 2 else None
            preferred = None if margin is None else "chosen" if margin > 0 else "rejected"
            found.append({"preferred": preferred, "margin": None if margin is None else round(margin, 6),
                          "score": score})  # fmt: skip
        return found

    def table(self, decoded: Mapping[str, Any]) -> list[Any]:
        """The same as `table_names` names; an answer by itself stands where chosen ones do."""
        return [decoded["preferred"], decoded["margin"], *[*decoded["score"], None][:2]]

    def judge(self, predictions: Predictions, num_worst: int) -> dict[str, Any]:
        """The pairs whose rejected answer has the reward that is higher by most."""
        kept: list[tuple[float, int]] = []
        for chunk in predictions.chunks():
            gaps = [(-(told["margin"] or 0.0), -(chunk.start + row)) for row, told in enumerate(self.decode(chunk))]
            kept = heapq.nlargest(num_worst, [*kept, *(gap for gap in gaps if gap[0] > 0)])
        rows = predictions.some([-number for _, number in kept])
        return {"worst": [_told(rows, row, told) for row, told in enumerate(self.decode(rows))]}

    def probe_texts(self, columns: Mapping[str, list[Any]]) -> tuple[list[str], None]:
        """Plain texts: of each row all that is said in it."""
        from llmtune.task.preference_encoding import said

        return said(columns), None

    def to_json(self) -> dict[str, Any]:
        """What `predict` and `evaluate` need besides the settings."""
        return {"template": self.template.text}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Undo `to_json`."""
        self.template.text = plain["template"]


def _chosen(targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Numbers of the chosen answers (P,); the rejected one comes after each."""
    from llmtune.task.preference_encoding import CHOSEN

    return (targets["kind"] == CHOSEN).nonzero()[:, 0]


def _told(rows: Chunk, row: int, told: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: column[row] for name, column in rows.columns.items()}
    found = preference_of({name: value for name, value in values.items() if name != "label"})
    answers = [" ".join(turn["content"] for turn in answer)[:TEXT_CHARS] for answer in found.answers]
    return {
        "file": values["file"], "line": values["line"], "gold": "chosen", "predicted": told["preferred"],
        "margin": told["margin"], "text": found.prompt[-1]["content"][:TEXT_CHARS],
        **dict(zip(("chosen", "rejected"), answers)),
    }  # fmt: skip

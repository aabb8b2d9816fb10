"""Multiple choice: each choice is read with its text and question, and the model scores it; the highest one is taken.

Legend: N or B rows, R choices of all rows of a batch, C choices of a row.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmtune.core.ranges import one_of
from llmtune.core.types import Loss
from llmtune.data.forms import choice_labels
from llmtune.data.labels import Labelled
from llmtune.data.roles import CHOICES, LABEL, QUESTION, TEXT
from llmtune.data.rows import RawSplits
from llmtune.task.choice_encoding import ChoiceEncoder, beside

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True, kw_only=True)
class MultipleChoice:
    name: str
    kind: str
    metric: str
    label_form: str

    def __post_init__(self) -> None:
        from llmtune.scoring.choices import METRICS

        one_of("metric", self.metric, list(METRICS))
        one_of("label_form", self.label_form, ("auto", *choice_labels.FORMS))

    def build(self) -> MultipleChoiceTask:
        return MultipleChoiceTask(self)


class MultipleChoiceTask:
    """Rows are questions with their choices, each choice a sequence; the model is any with a sequence head."""

    roles = (replace(TEXT, required=False), replace(QUESTION, required=False), CHOICES, LABEL)
    problem_type = "multiple_choice"
    labels = None
    num_outputs = 1
    fits = "models with a head for sequences in transformers fit: nearly all"
    fields = ("choice", "index", "probability", "probabilities")
    table_names: tuple[str, ...] = fields

    def __init__(self, settings: MultipleChoice):
        from llmtune.scoring.choices import METRICS

        self.settings = settings
        self.metric, self.mode = settings.metric, METRICS[settings.metric]
        self.form: str | None = None if settings.label_form == "auto" else settings.label_form
        self.label_smoothing = 0.0

    # ---- data ----

    def read_labels(self, raw: RawSplits, label_names: Any, delimiter: str | None) -> Labelled:
        """The place of the right choice in each row, from 0.

        Raises:
            DataError: labels that are no choice, or rows with fewer than two.
        """
        first = next(iter(raw.splits))
        told = []
        if self.form is None:
            self.form = choice_labels.settle_form(raw.splits[first])
            told = [f"labels are {choice_labels.MEANINGS[self.form]}"]
            if self.form == "from_1" and first == "train":
                told[0] += ", as none is 0 (else type task.label_form=from_0)"
        found = {split: choice_labels.read(rows, self.form) for split, rows in raw.splits.items()}
        choice_labels.refuse(found, self.form)
        targets = {split: one.targets for split, one in found.items()}
        report = {split: {"counts": choice_labels.positions(one)} for split, one in targets.items()}
        return Labelled(self.problem_type, None, targets, report, told if self.form == "from_1" else [])

    @property
    def encoding_key(self) -> dict[str, Any]:
        """What token ids depend on besides the tokenizer and this code."""
        from llmtune.data.cache import code_version
        from llmtune.task import choice_encoding

        return {"code": code_version(choice_encoding)}

    def encoder(self, tokenizer: Any) -> ChoiceEncoder:
        """`encode(columns, max_tokens)`: each choice beside its text and question, which are cut before it is."""
        return ChoiceEncoder(tokenizer)

    def collate_targets(self, targets: Sequence[int], cuts: Any = None) -> dict[str, torch.Tensor]:
        """label_B; and of each choice its row and its place in that, row_R and place_R."""
        import torch

        sizes = [len(row) for row in cuts] if cuts is not None else [1] * len(targets)
        return {
            "label": torch.tensor(targets, dtype=torch.long),
            "row": torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)),
            "place": torch.cat([torch.arange(size) for size in sizes]),
        }

    # ---- model and loss ----

    def model_class(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def config_values(self) -> dict[str, Any]:
        return {"num_labels": 1, "id2label": {0: "score"}, "label2id": {"score": 0}}

    def probe_texts(self, columns: Mapping[str, list[Any]]) -> tuple[list[str], list[str] | None]:
        found = beside(columns)
        return (found.firsts, found.seconds) if any(found.firsts) else (found.seconds, None)

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        """Settle label smoothing. Raises ConfigError where what is for classes is set."""
        from llmtune.task.class_options import refuse_class_options

        refuse_class_options(self.settings.name, options, but=["label_smoothing"])
        self.label_smoothing = options.label_smoothing

    def count(self, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None) -> float:
        """Rows of a batch, each by its share."""
        return float(len(targets["label"])) if share_B is None else float(share_B.sum())

    def loss(
        self, logits_R1: torch.Tensor, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None
    ) -> Loss:
        """Cross-entropy over each row's choices, added up; label smoothing spreads over the row's own choices."""
        import torch

        scores_BC, real_BC = _table(logits_R1, targets)
        logs_BC = scores_BC.log_softmax(-1)
        losses_B = -logs_BC.gather(1, targets["label"][:, None])[:, 0]
        if self.label_smoothing:
            spread_B = -logs_BC.masked_fill(~real_BC, 0.0).sum(-1) / real_BC.sum(-1)
            losses_B = (1 - self.label_smoothing) * losses_B + self.label_smoothing * spread_B
        total = (losses_B if share_B is None else losses_B * share_B).sum()
        return Loss(total, torch.tensor(self.count(targets, share_B), device=total.device))

    def divergence(self, first_R1: torch.Tensor, second_R1: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> Loss:
        """Sum over a batch of the symmetric KL between two predictions of the right choice."""
        import torch

        one_BC, real_BC = _table(first_R1, targets)
        two_BC, _ = _table(second_R1, targets)
        apart_BC = (one_BC - two_BC).masked_fill(~real_BC, 0.0)
        total = ((one_BC.softmax(-1) - two_BC.softmax(-1)) * apart_BC).sum() / 2
        return Loss(total, torch.tensor(self.count(targets), device=total.device))

    # ---- results ----

    def score(self, predictions: Any) -> dict[str, float]:
        from llmtune.scoring.choices import ChoiceScores

        scores = ChoiceScores()
        for chunk in predictions.chunks():
            for scores_C, target in zip(chunk.outputs, chunk.targets):
                scores.add(scores_C.reshape(-1), int(target))
        return scores.scores()

    def decode(self, chunk: Any) -> list[dict[str, Any]]:
        """For each row the choice, its place from 0, its probability, and those of all choices in their order."""
        return [
            _chosen(json.loads(choices), scores_C.reshape(-1))
            for choices, scores_C in zip(chunk.columns["choices"], chunk.outputs)
        ]

    def table(self, decoded: Mapping[str, Any]) -> list[Any]:
        return [decoded[name] for name in self.table_names]

    def judge(self, predictions: Any, num_worst: int) -> dict[str, Any]:
        """`worst`: the wrong rows, the surest first; how often each place is right, and how often it is taken."""
        wrong: list[tuple[float, int]] = []
        right: Counter[int] = Counter()
        taken: Counter[int] = Counter()
        for chunk in predictions.chunks():
            for number, (found, target) in enumerate(zip(self.decode(chunk), chunk.targets), chunk.start):
                right[int(target)] += 1
                taken[found["index"]] += 1
                if found["index"] != target:
                    wrong.append((-found["probability"], number))
            wrong = heapq.nsmallest(num_worst, wrong)
        rows = [[place, right[place], taken[place]] for place in sorted(right | taken)]
        return {
            "tables": [{"columns": ["choice", "is right", "was taken"], "rows": rows}],
            "worst": self._worst(predictions, [number for _, number in wrong]),
        }

    def _worst(self, predictions: Any, rows: list[int]) -> list[dict[str, Any]]:
        if not rows:
            return []
        chunk = predictions.some(rows)
        known = [name for name in ("text", "question") if name in chunk.columns]
        worst = []
        for place, (found, target) in enumerate(zip(self.decode(chunk), chunk.targets)):
            choices = json.loads(chunk.columns["choices"][place])
            worst.append({
                "file": chunk.columns["file"][place], "line": chunk.columns["line"][place],
                "gold": choices[int(target)], "predicted": found["choice"], "probability": found["probability"],
                **{name: chunk.columns[name][place] for name in known}, "choices": choices,
            })  # fmt: skip
        return worst

    def to_json(self) -> dict[str, Any]:
        """What `predict` and `evaluate` need besides the settings."""
        return {"form": self.form}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Undo `to_json`."""
        self.form = plain["form"]


def _table(logits_R1: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of the choices by row, -inf where a row has fewer: (B, C); and which are real."""
    import torch

    shape = len(targets["label"]), int(targets["place"].max()) + 1
    places = targets["row"], targets["place"]
    real_BC = torch.zeros(shape, dtype=torch.bool, device=logits_R1.device).index_put(
        places, torch.ones_like(places[0], dtype=torch.bool)
    )
    empty_BC = torch.full(shape, float("-inf"), device=logits_R1.device)
    return empty_BC.index_put(places, logits_R1[:, 0].float()), real_BC


def _chosen(choices: list[str], scores_C: np.ndarray) -> dict[str, Any]:
    from llmtune.scoring.choices import probabilities

    chances = probabilities(scores_C).tolist()
    index = max(range(len(choices)), key=chances.__getitem__)
    return {"choice": choices[index], "index": index, "probability": chances[index], "probabilities": chances}

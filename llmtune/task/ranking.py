"""Rankings of candidates for a text: passages for a query, items for what a user says of themselves.

A text and a candidate are read together (a cross-encoder); rows are one candidate with how relevant it is, or all of
them. Where only what was chosen is known, other candidates are drawn to stand against it.

Legend: B rows, R candidates of all rows of a batch, C those of one row.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, Fault, ModelError, did_you_mean
from llmtune.core.ranges import at_least, one_of
from llmtune.core.types import Loss
from llmtune.data.labels import Labelled
from llmtune.data.roles import CHOICES, GROUP, LABEL, TEXT, TEXT_PAIR

if TYPE_CHECKING:
    import torch

    from llmtune.core.parts import Prospect
    from llmtune.data.rows import RawSplits
    from llmtune.scoring.predictions import Chunk, Predictions

TEXTS = ("text", "query", "question", "profile", "user_profile", "search")
CANDIDATES = ("text_pair", "passage", "document", "candidate", "item", "product", "description", "answer")
GRADES = ("label", "relevance", "relevant", "grade", "score", "clicked", "click", "rating", "target")
ROLES = (
    replace(TEXT, guesses=TEXTS, binds=True),
    replace(TEXT_PAIR, required=True, guesses=CANDIDATES, unless="choices"),
    replace(CHOICES, guesses=("choices", "candidates", "passages", "documents", "items"), unless="text_pair"),
    replace(LABEL, required=False, guesses=GRADES),
    replace(GROUP, known_before=False, sparse=True, binds=True),
)
POOLINGS = ("auto", "mean", "first", "last")


@dataclass(frozen=True, kw_only=True)
class Ranking:
    name: str
    kind: str
    metric: str
    loss: str
    negatives: int | str
    eval_negatives: int | str
    negatives_seed: int
    pooling: str

    def __post_init__(self) -> None:
        one_of("loss", self.loss, ("binary", "softmax"))
        one_of("pooling", self.pooling, POOLINGS)
        for field in ("negatives", "eval_negatives"):
            value = getattr(self, field)
            if isinstance(value, str):
                one_of(field, value, ("auto",))
            else:
                at_least(field, value, 0)

    def check(self, prospect: Prospect) -> None:
        """Raises ModelError: a pooled head has no place on two stacks."""
        if self.pooling != "auto" and prospect.model_config.is_encoder_decoder:
            given = f"{self.pooling}, but {prospect.config.model.name} ({prospect.model_config.model_type}) is an "
            raise ModelError(
                Fault("task.pooling", f"{given}encoder-decoder, read at its last token", "auto",
                      "type task.pooling=auto")
            )  # fmt: skip

    def build(self) -> RankingTask:
        return RankingTask(self)


class RankingTask:
    """One output, higher for better candidates; knows which candidates stand against which, the loss and the scores."""

    roles = ROLES
    labels = None
    problem_type = "ranking"
    num_outputs = 1
    fields = ("score", "probability", "ranking")

    def __init__(self, settings: Ranking):
        from llmtune.scoring.ranking import DEFAULT_METRIC, METRICS

        self.settings = settings
        self.metric = DEFAULT_METRIC if settings.metric == "auto" else settings.metric
        if self.metric not in METRICS:
            raise ConfigError(
                Fault("task.metric", f"'{settings.metric}' is no metric of task={settings.name}",
                      f"allowed: auto, {', '.join(METRICS)}", did_you_mean(settings.metric, METRICS))
            )  # fmt: skip
        self.mode = METRICS[self.metric]
        self.best_grade = 1
        self.candidates: list[str] = []
        """that were there to be drawn, by their numbers"""
        self._known = b""
        """pairs that are known as relevant, as sorted 64-bit numbers"""

    # ---- data ----

    def read_labels(self, raw: RawSplits, label_names: Any, delimiter: str | None) -> Labelled:
        """How relevant each candidate of a row is; candidates are drawn, and stand in a column of the rows from now on.

        Raises:
            DataError, ConfigError: labels that can't be read, by file and line; nothing stands against what was chosen.
        """
        from llmtune.task.ranking_negatives import num_negatives
        from llmtune.task.ranking_rows import relevance_of

        relevance = {split: relevance_of(split, rows) for split, rows in raw.splits.items()}
        settings = dict.fromkeys(relevance, self.settings.eval_negatives) | {"train": self.settings.negatives}
        wanted = {
            split: num_negatives(split, raw.splits[split], grades, settings[split])
            for split, grades in relevance.items()
        }
        if "train" in relevance:
            self.best_grade = max(1, *(max(grades) for grades in relevance["train"]))
            self._refuse_nothing_apart(raw.splits["train"], relevance["train"], wanted["train"])
        if any(wanted.values()):
            self._draw(raw, relevance, wanted)
        facts = {}
        for split, grades in relevance.items():
            relevant = sum(grade > 0 for row in grades for grade in row)
            facts[split] = {"counts": {"relevant": relevant, "other": sum(map(len, grades)) - relevant}}
        return Labelled(self.problem_type, None, relevance, facts)

    def _refuse_nothing_apart(self, rows: Any, relevance: Sequence[Sequence[int]], number: int) -> None:
        """Raises ConfigError where a model would see relevant candidates alone, or one at a time."""
        if not number and all(grade > 0 for row in relevance for grade in row):
            raise ConfigError(
                Fault("task.negatives", f"{number}, and every row of train is relevant: nothing stands against it", "",
                      "type task.negatives=4")
            )  # fmt: skip
        if self.settings.loss == "softmax" and not number and max(map(len, relevance)) == 1:
            raise ConfigError(
                Fault("task.loss", "softmax compares the candidates of a row, and these rows have one each",
                      "binary, or rows with several candidates", "type task.loss=binary, or task.negatives=4")
            )  # fmt: skip

    def _draw(self, raw: RawSplits, relevance: dict[str, list[list[int]]], wanted: Mapping[str, int]) -> None:
        """Put what is drawn into `raw`, and its 0 into `relevance`."""
        import numpy as np

        from llmtune.task import ranking_negatives
        from llmtune.task.ranking_rows import DRAWN, has

        pairs = [split for split in raw.splits if has(raw.splits[split], "text_pair")]
        known = {split: ranking_negatives.positives_of(raw.splits[split], relevance[split]) for split in pairs}
        all_known = np.unique(np.concatenate([*known.values(), np.frombuffer(self._known, dtype=np.int64)]))
        self._known = all_known.tobytes()
        for split in (split for split in pairs if wanted[split]):
            rows = raw.splits[split]
            drawn, pool = ranking_negatives.draw(
                # what train never sees as a negative would be told apart by that: it must not know of test's positives
                rows, relevance[split], known["train"] if split == "train" else all_known, number=wanted[split],
                first=len(self.candidates), seed=self.settings.negatives_seed,
            )  # fmt: skip
            if not any(drawn):
                raise ConfigError(
                    Fault(f"data.{split}", f"no other candidate among its {len(pool)} can be drawn for any row",
                          "rows with more different candidates", "or rows with label 0, and task.eval_negatives=0")
                )  # fmt: skip
            self.candidates += pool
            raw.splits[split] = ranking_negatives.with_column(rows, DRAWN, drawn)
            relevance[split] = [[*own, *[0] * len(more)] for own, more in zip(relevance[split], drawn)]

    @property
    def encoding_key(self) -> dict[str, Any]:
        """What tokens hang on besides the rows: how many are drawn, from which seed, and what must not be."""
        settings = self.settings
        return {
            "drawn": [settings.negatives, settings.eval_negatives, settings.negatives_seed],
            "known": hashlib.sha256(self._known).hexdigest(),
        }

    def encoder(self, tokenizer: Any) -> Any:
        """`encode(columns, max_tokens)`: the text of a row with each of its candidates, a sequence for each."""
        from llmtune.task.ranking_rows import encode_pairs

        return partial(encode_pairs, tokenizer, self.candidates)

    def collate_targets(self, targets: Sequence[Any], cuts: list[list[int]] | None = None) -> dict[str, torch.Tensor]:
        """`label` (R,): how relevant every candidate is, from 0 to 1 for the best grade; `row` (R,): whose it is."""
        import torch

        label = [min(1.0, grade / self.best_grade) for grades in targets for grade in grades]
        rows = [row for row, grades in enumerate(targets) for _ in grades]
        return {"label": torch.tensor(label), "row": torch.tensor(rows)}

    # ---- model and loss ----

    def model_class(self) -> Any:
        if self.settings.pooling != "auto":
            from llmtune.model.pooled_head import PooledClassifier

            return PooledClassifier
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def config_values(self) -> dict[str, Any]:
        pooled = {} if self.settings.pooling == "auto" else {"sentence_pooling": self.settings.pooling}
        return {"num_labels": 1, **pooled}

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        """Raises ConfigError where what is for classes is set."""
        from llmtune.task.class_options import refuse_class_options

        refuse_class_options(self.settings.name, options)

    def count(self, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None) -> float:
        """Candidates; for softmax rows with something relevant. Each counts by its row's share."""
        from llmtune.task.ranking_loss import shares

        return float(shares(self.settings.loss, targets, share_B).sum())

    def loss(
        self, logits_R1: torch.Tensor, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None
    ) -> Loss:
        """Sum of the binary cross-entropy of every candidate, or of that of the choice among each row's candidates."""
        import torch

        from llmtune.task.ranking_loss import losses, shares

        shares_ = shares(self.settings.loss, targets, share_B)
        total = (losses(self.settings.loss, logits_R1.float().squeeze(-1), targets) * shares_).sum()
        return Loss(total, torch.tensor(float(shares_.sum()), device=total.device))

    def divergence(self, first_R1: torch.Tensor, second_R1: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> Loss:
        """Sum of how far two predictions are apart (symmetric KL), counted as `loss` is."""
        import torch

        from llmtune.task.ranking_loss import apart, shares

        first_R, second_R = first_R1.float().squeeze(-1), second_R1.float().squeeze(-1)
        shares_ = shares(self.settings.loss, targets)
        total = (apart(self.settings.loss, first_R, second_R, targets) * shares_).sum()
        return Loss(total, torch.tensor(float(shares_.sum()), device=total.device))

    # ---- results ----

    def score(self, predictions: Predictions) -> dict[str, float]:
        """NDCG, MRR, recall and hits by group, AUC of all candidates and by group."""
        from llmtune.task.ranking_results import scores

        return scores(predictions)

    def decode(self, chunk: Chunk) -> list[dict[str, Any]]:
        """For each row the score of its candidate; of listed ones those of all, and their ranking."""
        from llmtune.task.ranking_results import decoded

        return decoded(chunk, together=self.settings.loss == "softmax")

    @property
    def table_names(self) -> list[str]:
        """Columns of a table of predictions."""
        return list(self.fields)

    def table(self, decoded: Mapping[str, Any]) -> list[Any]:
        """The same values as `table_names` names."""
        return [decoded[name] for name in self.fields]

    def judge(self, predictions: Predictions, num_worst: int) -> dict[str, Any]:
        """The rows that are ranked worst."""
        from llmtune.task.ranking_results import worst

        return {"worst": worst(predictions, self.candidates, num_worst)}

    def probe_texts(self, columns: Mapping[str, list[Any]]) -> tuple[list[str], list[str]]:
        """Texts and a candidate of each."""
        import json

        pairs, listed = columns.get("text_pair"), columns.get("choices")
        if pairs is not None and pairs[0] is not None:
            return list(columns["text"]), list(pairs)
        return list(columns["text"]), [json.loads(some)[0] for some in listed or ()]

    def to_json(self) -> dict[str, Any]:
        """What `predict` and `evaluate` need besides the settings."""
        return {"best_grade": self.best_grade, "known": base64.b64encode(self._known).decode()}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Undo `to_json`."""
        self.best_grade, self._known = plain["best_grade"], base64.b64decode(plain["known"])

"""Classification and regression of texts and pairs of texts: one label, several labels, or a number.

Legend: N or B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, Fault, ModelError, did_you_mean
from llmtune.core.ranges import between, one_of
from llmtune.core.types import Loss
from llmtune.data.labels import Labelled, LabelTable, label_splits
from llmtune.data.roles import LABEL, TEXT, TEXT_PAIR
from llmtune.data.rows import RawSplits

if TYPE_CHECKING:
    import numpy as np
    import torch

    from llmtune.scoring.predictions import Chunk, Predictions

ROLES = (TEXT, TEXT_PAIR, LABEL)
POOLINGS = ("auto", "mean", "first", "last")
PROBLEM_TYPES = ("single_label", "multi_label", "regression")
HUGGING_FACE_NAMES = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


@dataclass(frozen=True, kw_only=True)
class Classification:
    name: str
    kind: str
    problem_type: str
    metric: str
    threshold: float
    pooling: str

    def __post_init__(self) -> None:
        one_of("problem_type", self.problem_type, ("auto", *PROBLEM_TYPES))
        between("threshold", self.threshold, 0.01, 0.99)
        one_of("pooling", self.pooling, POOLINGS)

    def check(self, prospect: Any) -> None:
        """Raises ModelError: a pooled head has no place on two stacks."""
        if self.pooling != "auto" and prospect.model_config.is_encoder_decoder:
            raise ModelError(
                Fault("task.pooling", f"{self.pooling}, but {prospect.config.model.name} "
                      f"({prospect.model_config.model_type}) is an encoder-decoder, read at its last token", "auto",
                      "type task.pooling=auto")
            )  # fmt: skip

    def build(self) -> ClassificationTask:
        return ClassificationTask(self)


class ClassificationTask:
    """Knows labels, losses and scores; the model is any that transformers can put a sequence head on."""

    roles = ROLES

    def __init__(self, settings: Classification):
        self.settings = settings
        self.problem_type = settings.problem_type
        self.labels: LabelTable | None = None
        self.label_smoothing = 0.0
        self.focal_gamma = 0.0
        self._class_weights_C: torch.Tensor | None = None

    # ---- data ----

    def read_labels(self, raw: RawSplits, label_names: Any, delimiter: str | None) -> Labelled:
        """Targets by split: class ids, lists of class ids, or numbers. Settles problem type, labels and metric."""
        labelled = label_splits(
            raw, delimiter=delimiter, label_names=label_names, problem=self.problem_type, table=self.labels
        )
        self.problem_type, self.labels = labelled.problem_type, labelled.table
        self._check_metric()
        return labelled

    def _check_metric(self) -> None:
        from llmtune.scoring.classification import DEFAULT_METRIC, METRICS

        directions = METRICS[self.problem_type]
        metric = self.settings.metric
        self.metric = DEFAULT_METRIC[self.problem_type] if metric == "auto" else metric
        if self.metric not in directions:
            raise ConfigError(
                Fault("task.metric", f"'{metric}' is no metric of {self.problem_type}",
                      f"allowed: {', '.join(directions)}", did_you_mean(metric, directions))
            )  # fmt: skip
        self.mode = directions[self.metric]

    def encoder(self, tokenizer: Any) -> Callable[[Mapping[str, list[Any]], int | None], dict[str, list[Any]]]:
        """`encode(columns, max_tokens)`: token ids of a batch of rows; training and `predict` use this one."""

        def encode(columns: Mapping[str, list[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
            pairs = columns.get("text_pair")
            encoded = tokenizer(
                list(columns["text"]), None if pairs is None else list(pairs), padding=False,
                truncation="longest_first" if max_tokens else False, max_length=max_tokens, verbose=False,
                return_attention_mask=False,
            )  # fmt: skip
            return {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}

        return encode

    def collate_targets(
        self, targets: Sequence[Any], cuts: list[list[int]] | None = None
    ) -> dict[str, torch.Tensor]:
        """A batch of targets as a tensor: ids_B, ones_BC or numbers_B."""
        import torch

        if self.problem_type == "single_label":
            return {"label": torch.tensor(targets, dtype=torch.long)}
        if self.problem_type == "regression":
            return {"label": torch.tensor(targets, dtype=torch.float32)}
        ones_BC = torch.zeros(len(targets), self.num_outputs)
        for row, ids in enumerate(targets):
            ones_BC[row, ids] = 1.0
        return {"label": ones_BC}

    # ---- model and loss ----

    @property
    def num_outputs(self) -> int:
        return len(self.labels.names) if self.labels else 1

    def model_class(self) -> Any:
        if self.settings.pooling != "auto":
            from llmtune.model.pooled_head import PooledClassifier

            return PooledClassifier
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def config_values(self) -> dict[str, Any]:
        """What the model's config must say, so that others read labels by name."""
        values: dict[str, Any] = {"problem_type": HUGGING_FACE_NAMES[self.problem_type], "num_labels": self.num_outputs}
        if self.settings.pooling != "auto":
            values["sentence_pooling"] = self.settings.pooling
        if self.labels:
            values["id2label"] = dict(enumerate(self.labels.names))
            values["label2id"] = {name: i for i, name in enumerate(self.labels.names)}
        return values

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        """Settle smoothing, class weights and focus from the `train` settings; `targets`: those of all train rows.

        Raises:
            ConfigError: weights of unknown classes, or settings for a task of another kind.
        """
        import torch

        from llmtune.task.losses import class_weights

        chosen = options.class_weights
        single = {"label_smoothing": options.label_smoothing, "class_weights": chosen != "none"}
        faults = [
            Fault(f"train.{key}", f"set for {self.problem_type}", "for rows with one label", f"type train.{key}={off}")
            for key, off in (("label_smoothing", "0"), ("class_weights", "none"))
            if single[key] and self.problem_type != "single_label"
        ]
        if options.focal_gamma and self.problem_type == "regression":
            faults.append(
                Fault("train.focal_gamma", "set for regression", "for rows with labels", "type train.focal_gamma=0")
            )
        names = self.labels.names if self.labels else []
        if isinstance(chosen, Mapping) and not faults:
            faults += [
                Fault("train.class_weights", f"no class {name!r}", f"classes: {', '.join(names)}")
                for name in chosen
                if name not in names
            ]
        if faults:
            raise ConfigError(*faults)
        self.label_smoothing, self.focal_gamma = options.label_smoothing, options.focal_gamma
        if isinstance(chosen, Mapping):
            self._class_weights_C = torch.tensor([float(chosen.get(name, 1.0)) for name in names])
        elif chosen != "none":
            self._class_weights_C = class_weights(chosen, targets, self.num_outputs, options.effective_beta)

    def count(self, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None) -> float:
        """Items of a batch's loss: rows, their class weights, or rows x labels; each row counts by its share."""
        label = targets["label"].cpu()
        items_B = self._weights(label)
        return float((items_B if share_B is None else items_B * share_B.cpu()).sum())

    def loss(
        self, logits_BC: torch.Tensor, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None
    ) -> Loss:
        """Sum of the cross-entropy, the binary cross-entropy or the squared error over a batch.

        share_B: by how much each row counts; None: as one.
        """
        import torch

        from llmtune.task.losses import loss_by_row

        weights_C = self._class_weights_C.to(logits_BC.device) if self._class_weights_C is not None else None
        losses_B = loss_by_row(
            self.problem_type, logits_BC.float(), targets["label"], weights_C=weights_C,
            label_smoothing=self.label_smoothing, focal_gamma=self.focal_gamma,
        )  # fmt: skip
        total = (losses_B if share_B is None else losses_B * share_B).sum()
        return Loss(total, torch.tensor(self.count(targets, share_B), device=total.device))

    def divergence(
        self, first_BC: torch.Tensor, second_BC: torch.Tensor, targets: Mapping[str, torch.Tensor]
    ) -> Loss:
        """Sum over a batch of how far two predictions are apart: symmetric KL, or the squared difference of numbers.

        Counted as `loss` is: a row has the weight of its class.
        """
        import torch

        from llmtune.task.losses import divergence_by_row

        apart_B = divergence_by_row(self.problem_type, first_BC.float(), second_BC.float())
        if self._class_weights_C is not None:
            apart_B = apart_B * self._class_weights_C.to(apart_B.device)[targets["label"]]
        total = apart_B.sum()
        return Loss(total, torch.tensor(self.count(targets), device=total.device))

    def _weights(self, label: torch.Tensor) -> torch.Tensor:
        """Items that each row stands for: (B,), on the CPU."""
        import torch

        if self._class_weights_C is not None:
            return self._class_weights_C[label]
        return torch.full((len(label),), float(label[0].numel() if len(label) else 1))

    # ---- results ----

    def blocks(self, predictions: Predictions) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Logits and targets of all rows, as scores take them."""
        import numpy as np

        for chunk in predictions.chunks():
            assert chunk.targets is not None  # rows are scored by their labels
            yield np.stack(chunk.outputs), self.collate_targets(chunk.targets)["label"].numpy()

    def score(self, predictions: Predictions) -> dict[str, float]:
        from llmtune.scoring.classification import score

        return score(self.problem_type, partial(self.blocks, predictions), self.settings.threshold)

    def judge(self, predictions: Predictions, num_worst: int) -> dict[str, Any]:
        """Per-class table, confusion, and the rows that are most surely wrong."""
        from llmtune.task.error_analysis import judged

        return judged(self, predictions, num_worst)

    @property
    def fields(self) -> tuple[str, ...]:
        """What `decode` tells of a row."""
        if self.labels is None:
            return ("label",)
        return ("label", "probability", "probabilities") if self.problem_type == "single_label" else (
            "label", "probabilities")  # fmt: skip

    def decode(self, chunk: Chunk) -> list[dict[str, Any]]:
        """For each row `label` (name, list of names, or number), `probability` of a single one, `probabilities`."""
        from llmtune.task.error_analysis import decoded

        return decoded(self.problem_type, self.labels, self.settings.threshold, chunk.outputs)

    @property
    def table_names(self) -> list[str]:
        """Columns of a table of predictions."""
        names = self.labels.names if self.labels else ()
        first = ["label", "probability"] if "probability" in self.fields else ["label"]
        return [*first, *(f"probability_{name}" for name in names)]

    def table(self, decoded: Mapping[str, Any]) -> list[Any]:
        """The same values as `table_names` names."""
        one = [decoded["probability"]] if "probability" in decoded else []
        return [decoded["label"], *one, *decoded.get("probabilities", {}).values()]

    def to_json(self) -> dict[str, Any]:
        """What `predict` and `evaluate` need besides the settings."""
        return {"problem_type": self.problem_type, "labels": self.labels.to_json() if self.labels else None}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Undo `to_json`."""
        self.problem_type = plain["problem_type"]
        self.labels = LabelTable.from_json(plain["labels"]) if plain["labels"] else None
        self._check_metric()

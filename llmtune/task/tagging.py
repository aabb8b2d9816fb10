"""Tagging of words: entities by a tag a word, by a chain of tags (CRF) or by spans; or plain tags as in POS.

Legend: B rows, R sequences (windows of rows), T tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, DataError, Fault, ModelError, did_you_mean
from llmtune.core.ranges import at_least, one_of
from llmtune.core.types import Batch, Loss
from llmtune.data.labels import Labelled, LabelTable
from llmtune.data.roles import SPANS, TAGS, TEXT, TOKENS
from llmtune.data.rows import RawSplits
from llmtune.data.tagging.learnt import Learnt
from llmtune.data.tagging.schemes import PLAIN, SCHEMES

if TYPE_CHECKING:
    import numpy as np
    import torch

    from llmtune.scoring.predictions import Chunk, Predictions

ROLES = (
    dataclasses.replace(TOKENS, required=True, unless="text"),
    dataclasses.replace(TAGS, required=True, unless="spans"),
    dataclasses.replace(TEXT, required=True, unless="tokens"),
    dataclasses.replace(SPANS, required=True, unless="tags"),
)
HEADS = ("linear", "crf", "span")
FIELDS = {"entities": ("entities",), "tags": ("tags", "words")}


@dataclass(frozen=True, kw_only=True)
class Tagging:
    name: str
    kind: str
    head: str
    scheme: str
    learn_as: str
    broken: str
    nested: bool
    widest_span: int
    overlap: int
    metric: str

    def __post_init__(self) -> None:
        one_of("head", self.head, HEADS)
        one_of("scheme", self.scheme, ("auto", *SCHEMES, PLAIN))
        one_of("learn_as", self.learn_as, ("same", "BIO", "BIOES", "BILOU", "BMES", "IO"))
        one_of("broken", self.broken, ("error", "repair"))
        at_least("widest_span", self.widest_span, 1)
        at_least("overlap", self.overlap, 0)
        if self.nested and self.head != "span":
            raise ValueError(f"nested: true, but a head '{self.head}' gives each word one tag; must be task.head=span")

    def check(self, prospect: Any) -> None:
        """Raises ModelError: heads of our own read all tokens of one stack."""
        if self.head != "linear" and prospect.model_config.is_encoder_decoder:
            raise ModelError(
                Fault("task.head", f"{self.head}, but {prospect.config.model.name} "
                      f"({prospect.model_config.model_type}) is an encoder-decoder", "linear, or an encoder",
                      "type task.head=linear")
            )  # fmt: skip

    def build(self) -> TaggingTask:
        return TaggingTask(self)


class TaggingTask:
    """Words of a row in, entities or tags out; what its head is trained on lies in task.tagging_losses."""

    roles = ROLES
    fits = "an encoder (BERT, RoBERTa, ...) or a decoder whose tokens can be labelled"

    def __init__(self, settings: Tagging):
        from llmtune.task import tagging_heads as heads

        self.settings = settings
        self.learnt: Learnt | None = None
        self.head = {"linear": heads.LinearHead, "crf": heads.CrfHead}.get(
            settings.head, lambda: heads.SpanHead(settings.widest_span)
        )()
        self.problem_type = "tagging"
        self._warnings: list[str] = []

    # ---- data ----

    def read_labels(self, raw: RawSplits, label_names: Any, delimiter: str | None) -> Labelled:
        """Settles scheme, tags and metric from train; judges every row. Targets are left to the encoder.

        Raises:
            DataError: with file and line.
        """
        from llmtune.data.tagging import labels as rows

        if delimiter is not None:
            raise ConfigError(
                Fault("data.label_delimiter", f"{delimiter!r} is set", "tags are lists", "data.label_delimiter=null")
            )
        first, settings = next(iter(raw.splits)), self.settings
        if self.learnt is None:
            reading = rows.settle_reading(
                raw, first, scheme=settings.scheme, nested=settings.nested, repair=settings.broken == "repair",
                entities=self._wants_entities(), label_names=label_names,
            )  # fmt: skip
            self._refuse_plain(reading.scheme)
            judged = rows.judge(raw, reading)
            same = "BIO" if reading.scheme == "IOB1" else reading.scheme
            kinds = rows.learnt_kinds(judged[first], reading, label_names, first)
            self.learnt = Learnt(
                reading, same if settings.learn_as == "same" else settings.learn_as, tuple(kinds), self.head.spans,
                max(found.longest for found in judged.values()),
            )  # fmt: skip
            self._settle()
        else:
            self.learnt = self.learnt.reads(rows.source_of(raw))
            judged = rows.judge(raw, self.learnt.reading)
        faults = rows.unknown_kinds(judged, self.learnt.kinds, first, "tag" if self.learnt.plain else "type")
        if faults:
            raise DataError(*faults)
        self._warnings = [
            f"{split}: {found.repaired} row(s) with broken tags or spans were repaired"
            for split, found in judged.items() if found.repaired
        ]  # fmt: skip
        targets: dict[str, list[Any]] = {split: [None] * len(rows) for split, rows in raw.splits.items()}
        report = {split: {"counts": {kind: found.counts[kind] for kind in self.learnt.kinds}}
                  for split, found in judged.items()}  # fmt: skip
        return Labelled(self.problem_type, self.labels, targets, report, self._warnings)

    def _wants_entities(self) -> bool:
        """Do the settings make sense for entities alone?"""
        from llmtune.scoring.tagging import METRICS

        metric = self.settings.metric
        return self.head.spans or (metric in METRICS["entities"] and metric not in METRICS["tags"])

    def _refuse_plain(self, scheme: str) -> None:
        """ConfigError where tags that mark no entities are to be learnt as if they did."""
        given = {"head": self.settings.head, "learn_as": self.settings.learn_as}
        faults = [
            Fault(f"task.{key}", f"{given[key]}, but these tags mark no entities (task.scheme={self.settings.scheme})",
                  "tags in a scheme, such as B-X I-X O", f"type task.{key}={usual}")
            for key, usual in (("head", "linear"), ("learn_as", "same"))
            if scheme == PLAIN and given[key] not in (usual, "crf")
        ]  # fmt: skip
        if faults:
            raise ConfigError(*faults)

    def _settle(self) -> None:
        """What follows from what was learnt: kind of problem, metric."""
        from llmtune.scoring.tagging import DEFAULT_METRIC, METRICS

        self.problem_type = "tags" if self.known.plain else "entities"
        directions, metric = METRICS[self.problem_type], self.settings.metric
        self.metric = DEFAULT_METRIC[self.problem_type] if metric == "auto" else metric
        if self.metric not in directions:
            raise ConfigError(
                Fault("task.metric", f"'{metric}' is no metric of {self.problem_type}",
                      f"allowed: {', '.join(directions)}", did_you_mean(metric, directions))
            )  # fmt: skip
        self.mode = directions[self.metric]

    @property
    def known(self) -> Learnt:
        """What `read_labels` or `restore` settled."""
        assert self.learnt is not None  # nothing is asked before
        return self.learnt

    @property
    def labels(self) -> LabelTable | None:
        return None if self.learnt is None else self.learnt.labels

    def encoder(self, tokenizer: Any) -> Any:
        """A data.tagging.encoding.TaggingEncoder: long rows become windows, in training and in `predict`."""
        from llmtune.data.tagging.encoding import Overlap, TaggingEncoder

        overlap = Overlap(self.settings.overlap, self.head.shared_words(self.known.longest))
        return TaggingEncoder(tokenizer, self.known, overlap)

    @property
    def encoding_key(self) -> dict[str, Any]:
        """What token ids and targets hang on besides the tokenizer and this file."""
        from llmtune.data.tagging.encoding import code

        shared = self.head.shared_words(self.known.longest)
        return {**self.known.to_json(), "overlap": [self.settings.overlap, shared], "code": code()}

    def probe_texts(self, columns: Mapping[str, list[Any]]) -> tuple[list[str], None]:
        """The texts that rows stand for."""
        from llmtune.data.tagging.rows import plain_texts

        return plain_texts(columns), None

    def collate_targets(
        self, targets: Sequence[Any], cuts: list[list[int]] | None = None
    ) -> dict[str, torch.Tensor]:
        """`label` (R, T), of spans (R, T, W), and what belongs to it."""
        return self.head.collate(targets, cuts)

    # ---- model and loss ----

    @property
    def num_outputs(self) -> int:
        return len(self.labels.names) if self.labels else 1

    def model_class(self) -> Any:
        return self.head.model_class()

    def config_values(self) -> dict[str, Any]:
        """What the model's config must say, so that others read tags by name."""
        labels = self.known.labels
        return {
            "num_labels": len(labels.names), "id2label": dict(enumerate(labels.names)), "label2id": labels.ids,
            **self.head.config_values(self.known),
        }  # fmt: skip

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        """Settle the loss from the `train` settings; of spans also the width, from the encoded `targets` of train.

        Raises:
            ConfigError: weights of unknown tags, or settings that the head has no use for.
        """
        self._warnings += self.head.settle(options, targets, self.known.labels.names)

    def count(self, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None) -> float:
        """Words, whatever the head, each by its row's share (and its tag's weight)."""
        from llmtune.task.tagging_losses import row_weights

        return float((row_weights(targets, share_B) * self.head.words(targets)).sum())

    def loss(
        self, logits: torch.Tensor, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None
    ) -> Loss:
        """Sum of the cross-entropy of words, of -log p of rows' tags, or of the cross-entropy of spans.

        share_B: by how much each row counts; None: as one.
        """
        import torch

        total = self.head.loss(logits, targets, share_B)
        return Loss(total, torch.tensor(self.count(targets, share_B), device=total.device))

    def divergence(self, first: torch.Tensor, second: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> Loss:
        """Sum over a batch of how far two predictions are apart, by symmetric KL."""
        import torch

        total = self.head.divergence(first, second, targets)
        return Loss(total, torch.tensor(self.count(targets), device=total.device))

    # ---- results ----

    def outputs(self, logits: torch.Tensor, batch: Batch) -> list[np.ndarray]:
        """For each row its words' tags with their chances, (words, 2), or its spans: (spans, 4)."""
        return self.head.outputs(logits, batch)

    def score(self, predictions: Predictions) -> dict[str, float]:
        from llmtune.task.tagging_results import score

        return score(self, predictions)

    def judge(self, predictions: Predictions, num_worst: int) -> dict[str, Any]:
        """Table by type, types that are mistaken for each other, and the rows with most mistakes."""
        from llmtune.task.tagging_results import judge

        return judge(self, predictions, num_worst)

    @property
    def fields(self) -> tuple[str, ...]:
        """What `decode` tells of a row."""
        return FIELDS[self.problem_type]

    def decode(self, chunk: Chunk) -> list[dict[str, Any]]:
        """For each row `entities`, or of plain tags `tags` and `words`: see task.tagging_results.decode."""
        from llmtune.task.tagging_results import decode

        return decode(self, chunk)

    @property
    def table_names(self) -> list[str]:
        """Columns of a table of predictions."""
        return list(self.fields)

    def table(self, decoded: Mapping[str, Any]) -> list[Any]:
        """The same values as `table_names` names."""
        return [decoded[name] for name in self.fields]

    def to_json(self) -> dict[str, Any]:
        """What `predict` and `evaluate` need besides the settings."""
        return {"learnt": self.known.to_json(), "head": self.head.state()}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Undo `to_json`."""
        self.learnt = Learnt.from_json(plain["learnt"])
        self.head.load_state(plain["head"])
        self._settle()

"""Sentence embeddings: one vector for a text, near those of texts that are alike.

Rows are texts alone, pairs that are alike, those with texts that are unlike, or pairs with a score of how alike.

Legend: N or B rows, R texts of a batch, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, DataError, Fault, ModelError, did_you_mean
from llmtune.core.ranges import at_least, between, one_of, positive
from llmtune.core.types import Loss
from llmtune.data.files.arrow_files import column_list
from llmtune.data.labels import Labelled
from llmtune.data.roles import LABEL, NEGATIVE, TEXT, TEXT_PAIR
from llmtune.task.embedding_rows import encode_texts, facts_of, form_of, scores_of, targets_of, wrong_scores

if TYPE_CHECKING:
    import torch

    from llmtune.core.parts import Prospect
    from llmtune.data.rows import RawSplits
    from llmtune.scoring.predictions import Chunk, Predictions

ROLES = (
    replace(TEXT, guesses=("anchor", *TEXT.guesses)),
    replace(TEXT_PAIR, guesses=("positive", *TEXT_PAIR.guesses), sparse=True),
    replace(NEGATIVE, sparse=True),
    replace(LABEL, required=False, guesses=("label", "score", "similarity", "similarity_score", "sim")),
)
LOSSES = ("in_batch", "triplet", "cosine", "order")
OF_A_STEP = ("in_batch", "order")
"""losses that compare all rows of a step with each other"""
HEADS_ALONE = ("head_only", "probe_then_tune", "tune_then_probe")
POOLINGS = ("auto", "mean", "first", "last")
WITH = ("supervised", "masked_lm", "causal_lm", "replay", "l2_sp", "mixout")
"""objectives that ask nothing of a row's own loss"""


@dataclass(frozen=True, kw_only=True)
class Embedding:
    name: str
    kind: str
    metric: str
    loss: str
    temperature: float
    symmetric: bool
    margin: float
    matryoshka: list[int]
    pooling: str
    score_range: list[float] | None

    def __post_init__(self) -> None:
        one_of("loss", self.loss, ("auto", *LOSSES))
        positive("temperature", self.temperature)
        between("margin", self.margin, 0.0, 2.0)
        for width in self.matryoshka:
            at_least("matryoshka", width, 1)
        one_of("pooling", self.pooling, POOLINGS)
        if self.score_range is not None and (len(self.score_range) != 2 or self.score_range[0] >= self.score_range[1]):
            raise ValueError(f"score_range: {self.score_range}; the lowest and the highest score, as [0, 5]")

    def check(self, prospect: Prospect) -> None:
        """Raises ModelError where the model has two stacks, ConfigError where parts can't go together."""
        name, shape = prospect.config.model.name, prospect.model_config
        if shape.is_encoder_decoder:
            raise ModelError(
                Fault("model", f"{name} ({shape.model_type}) is an encoder-decoder: the vector of a text would be its "
                      "decoder's, which reads nothing yet", EmbeddingTask.fits, "type model=minilm")
            )  # fmt: skip
        width = getattr(prospect.network.config, "hidden_size", None)
        faults = [
            Fault("task.matryoshka", f"{some}, but the vectors have {width} numbers", f"below {width}")
            for some in self.matryoshka if width and some >= width
        ]  # fmt: skip
        faults += [
            Fault("objective", f"{other} asks for a loss or a class of each row by itself, task={self.name} compares "
                  "rows", f"allowed: {', '.join(WITH)}", "type objective=[supervised]")
            for other in prospect.config.objective if other not in WITH
        ]  # fmt: skip
        if self.metric == "loss" and prospect.task.pooled:
            faults.append(
                Fault("task.metric", "loss, which hangs on the rows that meet in a step", "auto, spearman, mrr_10, ...",
                      "type task.metric=auto")
            )  # fmt: skip
        frozen = prospect.config.freeze_policy.name
        if frozen in HEADS_ALONE and prospect.config.adapter.name == "none":
            faults.append(
                Fault("freeze_policy", f"{frozen} trains a head alone for a time, and sentence encoders have none",
                      "a policy that leaves layers to train", "type freeze_policy=none")
            )  # fmt: skip
        if prospect.task.views != ("clean",) and not _drops(prospect):
            faults.append(
                Fault("data", "texts alone are told apart by dropout, and the model has none", "",
                      "type model.dropout=0.1, or data.columns.text_pair=COLUMN")
            )  # fmt: skip
        if faults:
            raise ConfigError(*faults)

    def build(self) -> EmbeddingTask:
        return EmbeddingTask(self)


def _drops(prospect: Prospect) -> bool:
    """Does anything that trains drop?"""
    from llmtune.freeze_policy.phases import will_train
    from llmtune.model.modes import draws_dropout

    return draws_dropout(prospect.network, prospect.layers, will_train(prospect))


class EmbeddingTask:
    """A row's texts are its sequences; their vectors are the model's outputs. It knows losses and scores of them."""

    roles = ROLES
    labels = None
    fits = "embedding fits encoders (BERT, RoBERTa, ...) and decoders (GPT-2, Llama, Qwen, ...)"
    num_outputs = 0

    def __init__(self, settings: Embedding):
        self.settings = settings
        self.problem_type = "pairs"
        self.score_range = settings.score_range
        self._settle("pairs")

    # ---- data ----

    def read_labels(self, raw: RawSplits, label_names: Any, delimiter: str | None) -> Labelled:
        """Targets of a row: its score in millionths of the range, then a number for each text, equal for equal texts.

        Raises:
            DataError: rows of several forms in a split, scores that are no numbers or out of their range; file:line.
        """
        forms = {split: form_of(split, rows) for split, rows in raw.splits.items()}
        given = self.settings.score_range
        faults = [fault for split, rows in raw.splits.items() for fault in wrong_scores(split, rows, given)]
        if faults:
            raise DataError(*faults)
        first = next(iter(forms))
        if first == "train":
            self.problem_type = forms["train"]
            self._refuse_loss(forms["train"], raw.splits["train"])
        self._settle(forms.get("validation", forms[first]))
        scores = {split: scores_of(rows) for split, rows in raw.splits.items()}
        scored = next((split for split in scores if scores[split]), "")
        if self.score_range is None and scored:
            low, high = min(scores[scored]), max(scores[scored])
            if low == high:
                raise DataError(Fault(f"data.{scored}", f"every row has the score {low:g}", "scores must differ"))
            self.score_range = [low, high]
        targets = {split: targets_of(rows, scores[split], self.score_range) for split, rows in raw.splits.items()}
        return Labelled(self.problem_type, None, targets, {split: facts_of(scores[split]) for split in targets})

    def _settle(self, form: str) -> None:
        """The metric for rows of this form, and what `predict` tells."""
        from llmtune.scoring.retrieval import METRICS

        metric = self.settings.metric
        default = {"scored_pairs": "spearman", "pairs": "mrr_10", "texts": "uniformity"}[form]
        self.metric = default if metric == "auto" else metric
        allowed = [name for name in METRICS if name != "loss" or not self.pooled]  # that is of a step of train
        if self.metric not in allowed:
            raise ConfigError(
                Fault("task.metric", f"'{metric}' is no metric of task={self.settings.name}",
                      f"allowed: auto, {', '.join(allowed)}", did_you_mean(metric, allowed))
            )  # fmt: skip
        self.mode = METRICS[self.metric]

    def _refuse_loss(self, form: str, rows: Any) -> None:
        """Raises ConfigError where train has not what the loss asks for."""
        loss = self.settings.loss
        if loss in ("cosine", "order") and form != "scored_pairs":
            raise ConfigError(
                Fault("task.loss", f"{loss}, but the rows of train have no scores", "in_batch, or rows with scores",
                      "type task.loss=auto, or data.columns.label=COLUMN")
            )  # fmt: skip
        if loss == "triplet" and not any(column_list(rows, "negative") if "negative" in rows.column_names else ()):
            raise ConfigError(
                Fault("task.loss", "triplet, but no row of train has a text that is unlike", "",
                      "type data.columns.negative=COLUMN, or task.loss=auto")
            )  # fmt: skip

    def encoder(self, tokenizer: Any) -> Any:
        """`encode(columns, max_tokens)`: each row's text, pair and negatives as sequences of their own."""
        return partial(encode_texts, tokenizer)

    def collate_targets(self, targets: Sequence[Any], cuts: list[list[int]] | None = None) -> dict[str, torch.Tensor]:
        """Of every text of a batch its side, number, row and score. `label` (R,): the score from 0 to 1, NaN without.

        Texts alone are there a second time, as their own likes.
        """
        from llmtune.task.embedding_loss import collated

        return collated(targets, by_score=self.loss_name in ("cosine", "order"))

    # ---- model and loss ----

    def model_class(self) -> Any:
        from llmtune.model.sentence_encoder import SentenceEncoder

        return SentenceEncoder

    def config_values(self) -> dict[str, Any]:
        return {"sentence_pooling": self.settings.pooling}

    @property
    def loss_name(self) -> str:
        """`task.loss`; auto: the squared error of cosines where there are scores, else negatives of the same step."""
        if self.settings.loss != "auto":
            return self.settings.loss
        return "cosine" if self.problem_type == "scored_pairs" else "in_batch"

    @property
    def pooled(self) -> bool:
        """Is the loss of a whole step, and not a sum over its rows?"""
        return self.loss_name in OF_A_STEP

    @property
    def views(self) -> tuple[str, ...]:
        """What of each row the loss compares: texts alone are seen twice, with other dropout (arXiv 2104.08821)."""
        return ("clean", "second") if self.problem_type == "texts" else ("clean",)

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        """Raises ConfigError where what is for classes is set."""
        from llmtune.task.class_options import refuse_class_options

        refuse_class_options(self.settings.name, options)

    def count(self, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None) -> float:
        """Pairs; for triplets the rows that have a text that is unlike."""
        from llmtune.task.embedding_loss import num_items

        assert share_B is None, "rows are compared, none counts by itself"
        return num_items(self.loss_name, targets)

    def loss(
        self, vectors_RD: torch.Tensor, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None
    ) -> Loss:
        """Sum over pairs of the loss that `task.loss` names, over the vectors and the prefixes of `task.matryoshka`."""
        import torch

        from llmtune.task.embedding_loss import total_loss

        total = total_loss(self.loss_name, self.settings, vectors_RD, targets)
        return Loss(total, torch.tensor(self.count(targets, share_B), device=total.device))

    # ---- results ----

    def score(self, predictions: Predictions) -> dict[str, float]:
        """Rank correlations where rows have scores, else how well a text finds its partner; for each width."""
        from llmtune.task.embedding_results import scores

        return scores(predictions, self.settings.matryoshka)

    @property
    def fields(self) -> tuple[str, ...]:
        """What `decode` tells of a row."""
        return ("embedding", "cosine", "embedding_pair")

    def decode(self, chunk: Chunk) -> list[dict[str, Any]]:
        """For each row the vector of its text; of a pair also that of the other, and their cosine."""
        from llmtune.task.embedding_results import decoded

        return decoded(chunk)

    @property
    def table_names(self) -> list[str]:
        """Columns of a table of predictions."""
        return list(self.fields)

    def table(self, decoded: Mapping[str, Any]) -> list[Any]:
        """The same values as `table_names` names."""
        return [decoded[name] for name in self.fields]

    def judge(self, predictions: Predictions, num_worst: int) -> dict[str, Any]:
        """The pairs whose cosine is farthest from what it should be."""
        from llmtune.task.embedding_results import worst

        return {"worst": worst(predictions, num_worst)}

    def probe_texts(self, columns: Mapping[str, list[Any]]) -> tuple[list[str], None]:
        """Plain texts: none is read together with another."""
        return list(columns["text"]), None

    def to_json(self) -> dict[str, Any]:
        """What `predict` and `evaluate` need besides the settings."""
        return {"problem_type": self.problem_type, "score_range": self.score_range}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Undo `to_json`."""
        self.problem_type, self.score_range = plain["problem_type"], plain["score_range"]
        self._settle(self.problem_type)

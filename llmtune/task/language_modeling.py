"""Language modelling of plain texts: an encoder finds hidden words, a decoder the next ones.

A line is a row, longer ones become several; the score is the mean loss of a word, with the same words hidden each time.

Legend: N or B rows, T tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, Fault, ModelError
from llmtune.core.parts import Prospect
from llmtune.core.ranges import one_of
from llmtune.core.types import Batch, Loss
from llmtune.data.plain_text import PlainText, PlainTextEncoder

if TYPE_CHECKING:
    import torch

    from llmtune.scoring.predictions import Chunk, Predictions

FITS = {"masked": "an encoder (BERT, RoBERTa, ...)", "causal": "a decoder (GPT-2, Llama, Qwen, ...)"}
OTHER = {"masked": "causal_lm", "causal": "masked_lm"}
WITHOUT_LABELS = (
    "masked_lm", "causal_lm", "next_sentence", "sentence_order", "replay", "contrastive", "l2_sp", "ewc",
)  # fmt: skip
"""objectives that ask for texts alone"""


@dataclass(frozen=True, kw_only=True)
class LanguageModeling:
    name: str
    kind: str
    form: str
    metric: str

    def __post_init__(self) -> None:
        one_of("form", self.form, ("masked", "causal"))
        one_of("metric", self.metric, ("loss", "perplexity", *(["bits_per_byte"] if self.form == "causal" else [])))

    def check(self, prospect: Prospect) -> None:
        from llmtune.model.language_head import language_kind

        if language_kind(prospect.model_config) != self.form:
            given = f"{prospect.config.model.name} ({prospect.model_config.model_type}) is none"
            allowed = f"{self.name} trains {FITS[self.form]}"
            raise ModelError(Fault("task", given, allowed, f"type task={OTHER[self.form]}"))
        asking = [name for name in prospect.config.objective if name not in WITHOUT_LABELS]
        if asking:
            raise ConfigError(*(
                Fault("objective", f"{name} needs labels, task={self.name} has none",
                      f"allowed: {', '.join(WITHOUT_LABELS)}", f"type objective=[{self.name}]")
                for name in asking
            ))  # fmt: skip

    def build(self) -> LanguageModelingTask:
        return LanguageModelingTask(self)


class LanguageModelingTask(PlainText):
    """Rows are plain texts; what is known of each is the sum of its words' losses, how many they are, their bytes."""

    problem_type = "language_modeling"
    labels = None
    mode = "min"
    num_outputs = 3
    fields = ("label", "loss", "words")

    def __init__(self, settings: LanguageModeling):
        self.settings = settings
        self.metric = settings.metric
        self.fits = f"it trains {FITS[settings.form]}; type task={OTHER[settings.form]}"
        words = {"masked": "fill-mask", "causal": "text-generation"}[settings.form]
        onwards = "train on with model=pretrained model.path=DIR/model"
        self.use = f"transformers.pipeline('{words}', 'DIR/model'), or {onwards}"
        self._scores: Any = None
        self._head: Any = None

    # ---- data ----

    def encoder(self, tokenizer: Any) -> PlainTextEncoder:
        from llmtune.model.word_scores import WordScores

        if self.settings.form == "masked" and tokenizer.mask_token_id is None:
            return PlainTextEncoder(tokenizer)  # its model will be refused
        self._scores = WordScores(self.settings.form, tokenizer)
        if self.metric == "bits_per_byte" and self._scores.bytes_V is None:
            raise ConfigError(
                Fault("task.metric", "bits_per_byte, but the bytes of this tokenizer's tokens are not known",
                      "a byte-level tokenizer (GPT-2, Llama 3, Qwen)", "type task.metric=loss")
            )  # fmt: skip
        return PlainTextEncoder(tokenizer)

    def collate_targets(
        self, targets: Sequence[Any] | None, cuts: list[list[int]] | None = None
    ) -> dict[str, torch.Tensor]:
        """Texts have none; the empty column stands where others have labels."""
        import torch

        return {"label": torch.zeros(len(targets or ()))}

    # ---- model and loss ----

    def model_class(self) -> Any:
        from llmtune.model.language_head import language_class

        return language_class(self.settings.form)

    def config_values(self) -> dict[str, Any]:
        return {}

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        """Raises ConfigError where what is for labels is set."""
        from llmtune.task.class_options import refuse_class_options

        refuse_class_options(self.settings.name, options)

    def run(self, model: Any, batch: Batch) -> torch.Tensor:
        """Of each row the loss of its words as a sum, their number, and the bytes that they are: (B, 3)."""
        from llmtune.model.language_head import LanguageHead

        if self._head is None or self._head[0] is not model:
            self._head = (model, LanguageHead(model, trained=False, shared=True))
        return self._scores.sums(model.base_model, self._head[1], batch)

    def loss(self, outputs_B3: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> Loss:
        """What `run` gave, added up; training goes by an objective."""
        return Loss(outputs_B3[:, 0].sum(), outputs_B3[:, 1].sum())

    # ---- results ----

    def score(self, predictions: Predictions) -> dict[str, float]:
        """`perplexity` = exp(loss of a word), and where bytes are known `bits_per_byte`."""
        import numpy as np

        sums_3 = sum(np.stack(chunk.outputs).astype("float64").sum(axis=0) for chunk in predictions.chunks())
        total, words, num_bytes = map(float, np.asarray(sums_3))
        scores = {"perplexity": math.exp(min(700.0, total / words)) if words else float("nan"), "words": words}
        return {**scores, **({"bits_per_byte": total / math.log(2) / num_bytes} if num_bytes else {})}

    def decode(self, chunk: Chunk) -> list[dict[str, Any]]:
        """For each row its mean loss and over how many words."""
        return [
            {"label": None, "loss": round(float(total / words), 6) if words else None, "words": int(words)}
            for total, words, _ in chunk.outputs
        ]

    def to_json(self) -> dict[str, Any]:
        return {}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Raises ConfigError: a language model has no labels to predict or to be scored by."""
        raise ConfigError(
            Fault("model", f"a language model (task={self.settings.name}) gives words and no labels",
                  "predict and evaluate are for models with labels",
                  self.use)
        )  # fmt: skip

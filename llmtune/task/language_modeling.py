"""Language modelling of plain texts: an encoder finds hidden words, a decoder the next ones, an encoder-decoder spans.

Rows are blocks, cut out of all texts end to end, or the texts themselves, of which longer ones become several. The
score is the mean loss of a word, with the same words hidden each time.

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
from llmtune.data.labels import Labelled
from llmtune.data.split_build import SPLITS
from llmtune.data.text.plain_text import PlainText, PlainTextEncoder
from llmtune.data.text.text_stream import DOCUMENTS

if TYPE_CHECKING:
    import torch

    from llmtune.scoring.predictions import Chunk, Predictions

KINDS = {"masked": "masked", "causal": "causal", "denoising": "sequence"}
"""model.language_head.language_kind of the models that a form is for"""
FITS = {
    "masked": "an encoder (BERT, RoBERTa, ...)", "causal": "a decoder (GPT-2, Llama, Qwen, ...)",
    "denoising": "an encoder-decoder of T5's kind",
}  # fmt: skip
SHIPPED = {"masked": "masked_lm", "causal": "causal_lm", "denoising": "denoising"}
TASK_OF = {KINDS[form]: name for form, name in SHIPPED.items()}
WITHOUT_LABELS = (
    "masked_lm", "causal_lm", "denoising", "next_sentence", "sentence_order", "replay", "contrastive", "l2_sp", "ewc",
    "distillation", "self_distillation",
)  # fmt: skip
"""objectives that ask for texts alone"""
OF_BLOCKS = ("masked_lm", "causal_lm", "denoising", "l2_sp", "ewc", "distillation", "self_distillation")
"""those of them that a block serves as well"""


@dataclass(frozen=True, kw_only=True)
class LanguageModeling:
    name: str
    kind: str
    form: str
    metric: str
    blocks: bool
    documents: str

    def __post_init__(self) -> None:
        one_of("form", self.form, tuple(KINDS))
        one_of("metric", self.metric, ("loss", "perplexity", *(["bits_per_byte"] if self.form == "causal" else [])))
        one_of("documents", self.documents, DOCUMENTS)
        if not self.blocks and self.documents != "line":
            raise ValueError(f"documents={self.documents} is for blocks=true; a row of its own is a line")

    def check(self, prospect: Prospect) -> None:
        from llmtune.model.language_head import language_kind

        kind = language_kind(prospect.model_config)
        if kind != KINDS[self.form]:
            given = f"{prospect.config.model.name} ({prospect.model_config.model_type}) is none"
            fix = f"type task={TASK_OF[kind]}" if kind in TASK_OF else ""
            raise ModelError(Fault("task", given, f"{self.name} trains {FITS[self.form]}", fix))
        faults = [
            Fault("objective", f"{name} needs labels, task={self.name} has none",
                  f"allowed: {', '.join(WITHOUT_LABELS)}", f"type objective=[{TASK_OF[kind]}]")
            for name in prospect.config.objective if name not in WITHOUT_LABELS
        ]  # fmt: skip
        if self.blocks:
            faults += self._refuse_for_blocks(prospect.config)
        if faults:
            raise ConfigError(*faults)

    def _refuse_for_blocks(self, config: Any) -> list[Fault]:
        """What reads texts one by one has nothing to read in blocks."""
        fix = "type task.blocks=false"
        faults = [
            Fault(f"objective.{name}", "looks at texts one by one, and rows are blocks of text end to end",
                  f"of blocks: {', '.join(OF_BLOCKS)}", fix)
            for name, part in config.objective.items()
            if name in WITHOUT_LABELS and name not in OF_BLOCKS and getattr(part, "rows", None) is None
        ]  # fmt: skip
        if config.augmentation:
            faults.append(Fault("augmentation", "changes texts one by one, and rows are blocks of text end to end",
                                "augmentation=[]", fix))  # fmt: skip
        return faults

    def build(self) -> LanguageModelingTask:
        return LanguageModelingTask(self)


class LanguageModelingTask(PlainText):
    """Rows are plain texts; what is known of each is the sum of its words' losses, how many they are, their bytes."""

    problem_type = "language_modeling"
    labels = None
    mode = "min"
    num_outputs = 3
    fields = ("loss", "perplexity", "words")
    table_names = ("loss", "perplexity", "words")

    def __init__(self, settings: LanguageModeling):
        self.settings = settings
        self.metric = settings.metric
        self.in_blocks, self.documents = settings.blocks, settings.documents
        self.next_words = settings.form == "causal"
        others = ", ".join(f"task={name} {FITS[form]}" for form, name in SHIPPED.items() if form != settings.form)
        self.fits = f"it trains {FITS[settings.form]}; {others}"
        self._tokenizer: Any = None
        self._scores: Any = None
        self._head: Any = None

    # ---- data ----

    def read_labels(self, raw: Any, label_names: Any, delimiter: str | None) -> Labelled:
        """Raises nothing: there are none."""
        if not self.in_blocks:
            return super().read_labels(raw, label_names, delimiter)
        return Labelled("plain_text", None, {split: [None] for split in SPLITS}, {split: {} for split in SPLITS})

    def encoder(self, tokenizer: Any) -> PlainTextEncoder:
        """Raises ConfigError where bytes are asked for and not known."""
        from llmtune.data.text.masking import bytes_of_tokens

        self._tokenizer, self._scores, self._head = tokenizer, None, None
        if self.metric == "bits_per_byte" and not self.in_blocks and bytes_of_tokens(tokenizer) is None:
            raise ConfigError(
                Fault("task.metric", "bits_per_byte, but the bytes of this tokenizer's tokens are not known",
                      "blocks of text, or a byte-level tokenizer (GPT-2, Llama 3, Qwen)", "type task.blocks=true")
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

        return language_class(KINDS[self.settings.form])

    def config_values(self) -> dict[str, Any]:
        return {}

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        """Raises ConfigError where what is for labels is set."""
        from llmtune.task.class_options import refuse_class_options

        refuse_class_options(self.settings.name, options)

    def run(self, model: Any, batch: Batch) -> torch.Tensor:
        """Of each row the loss of its words as a sum, their number, and the bytes that they are: (B, 3)."""
        from llmtune.model.language_head import LanguageHead
        from llmtune.model.word_scores import WordScores

        if self._head is None or self._head[0] is not model:
            self._head = (model, LanguageHead(model, trained=False, shared=True))
            self._scores = WordScores(KINDS[self.settings.form], self._tokenizer, model.config)
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
        """For each row the mean loss of its words in nats, `perplexity` = exp of it, and over how many words."""
        return [
            {"loss": round(float(total / words), 6), "perplexity": round(math.exp(min(700.0, total / words)), 4),
             "words": int(words)}
            if words else {"loss": None, "perplexity": None, "words": 0}
            for total, words, _ in (output.tolist() for output in chunk.outputs)
        ]  # fmt: skip

    def table(self, decoded: Mapping[str, Any]) -> list[Any]:
        return [decoded[name] for name in self.table_names]

    def judge(self, predictions: Predictions, num_worst: int) -> dict[str, Any]:
        """`worst`: the rows whose words were the hardest to foresee."""
        import heapq

        rows = (
            (decoded["loss"], chunk.start + row)
            for chunk in predictions.chunks() for row, decoded in enumerate(self.decode(chunk))
            if decoded["loss"] is not None
        )  # fmt: skip
        worst = heapq.nlargest(num_worst, rows)
        found = predictions.some([row for _, row in worst])
        return {"worst": [
            {"file": found.columns["file"][place], "line": found.columns["line"][place], "gold": "its words",
             "predicted": f"with a loss of {loss:.4f}", "text": found.columns["text"][place]}
            for place, (loss, _) in enumerate(worst)
        ]}  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return {}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """There is nothing but the settings."""

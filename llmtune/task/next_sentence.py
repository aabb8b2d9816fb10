"""BERT's two tasks at once: hidden words are found, and of two halves of texts it is told whether they are of one.

A row is a text. For its score it is cut at a sentence's end, and half of the rows get the second half of another row,
the same in each evaluation (Devlin et al., arXiv 1810.04805).

Legend: N or B rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmtune.core.errors import ConfigError, Fault, ModelError
from llmtune.core.parts import Prospect
from llmtune.core.ranges import one_of
from llmtune.core.seeds import fold, generator
from llmtune.core.types import Batch, Loss
from llmtune.data.text.plain_text import PlainText, PlainTextEncoder

if TYPE_CHECKING:
    import torch

    from llmtune.scoring.predictions import Chunk, Predictions

OBJECTIVES = ("masked_lm", "next_sentence", "sentence_order", "contrastive", "l2_sp", "ewc", "replay", "distillation")
APART = 37
"""rows between a text and the one whose second half it gets: neighbours are often of one document"""
LONGEST = 512
"""tokens of a pair"""
FITS = "a model of BERT's kind (bert, ernie, megatron-bert), which has both heads"


@dataclass(frozen=True, kw_only=True)
class NextSentence:
    name: str
    kind: str
    metric: str

    def __post_init__(self) -> None:
        one_of("metric", self.metric, ("next_accuracy", "loss"))

    def check(self, prospect: Prospect) -> None:
        from llmtune.model.language_head import for_pre_training

        faults: list[Fault | str] = [
            Fault("objective", f"{name} needs labels, task={self.name} has none", f"allowed: {', '.join(OBJECTIVES)}",
                  "type objective=[masked_lm,next_sentence]")
            for name in prospect.config.objective if name not in OBJECTIVES
        ]  # fmt: skip
        if not for_pre_training(prospect.network):
            given = f"{prospect.config.model.name} ({prospect.model_config.model_type}) has no head for both"
            raise ModelError(Fault("task", given, FITS, "type model=tiny_bert, or task=masked_lm"), *faults)
        if faults:
            raise ConfigError(*faults)

    def build(self) -> NextSentenceTask:
        return NextSentenceTask(self)


class PairedTexts(PlainTextEncoder):
    """Texts, each with the second half of another one: `other`, empty where that can't be cut."""

    def __init__(self, tokenizer: Any, halves: Any):
        super().__init__(tokenizer)
        self.halves = halves

    def __call__(self, columns: Mapping[str, list[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
        return self._paired(super().__call__(columns, max_tokens))

    def windows(
        self, texts: Sequence[str], max_tokens: int
    ) -> tuple[dict[str, list[Any]], list[int], list[str]]:  # fmt: skip
        tokens, source, parts = super().windows(texts, max_tokens)
        return self._paired(tokens), source, parts

    def _paired(self, tokens: dict[str, list[Any]]) -> dict[str, list[Any]]:
        cuts = [self.halves.cut(np.asarray(ids)) for ids in tokens["input_ids"]]
        step = 1 + (APART - 1) % max(1, len(cuts) - 1)  # never a whole round, which would end at the row itself
        others = [cuts[row - step] if len(cuts) > 1 else None for row in range(len(cuts))]
        return {**tokens, "other": [[] if cut is None else cut[1].tolist() for cut in others]}


class NextSentenceTask(PlainText):
    """What is known of each row: loss of its hidden words and their number; of its pair loss, 1, and 1 if right."""

    problem_type = "next_sentence"
    labels = None
    num_outputs = 5
    fields = ("loss", "words", "next_right")
    table_names = fields
    fits = f"it trains {FITS}"

    def __init__(self, settings: NextSentence):
        self.settings = settings
        self.metric = settings.metric
        self.mode = "max" if settings.metric == "next_accuracy" else "min"
        self._tokenizer: Any = None
        self._held: Any = None

    # ---- data ----

    def encoder(self, tokenizer: Any) -> PairedTexts:
        from llmtune.data.text.halves import Halves

        self._tokenizer, self._held = tokenizer, None
        self._halves = Halves(tokenizer, min(LONGEST, tokenizer.model_max_length))
        return PairedTexts(tokenizer, self._halves)

    def collate_targets(
        self, targets: Sequence[Any] | None, cuts: list[list[int]] | None = None
    ) -> dict[str, torch.Tensor]:
        """Texts have none; the empty column stands where others have labels."""
        import torch

        return {"label": torch.zeros(len(targets or ()))}

    # ---- model and loss ----

    def model_class(self) -> Any:
        from transformers import AutoModelForPreTraining

        return AutoModelForPreTraining

    def config_values(self) -> dict[str, Any]:
        return {}

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        """Raises ConfigError where what is for labels is set."""
        from llmtune.task.class_options import refuse_class_options

        refuse_class_options(self.settings.name, options)

    def run(self, model: Any, batch: Batch) -> torch.Tensor:
        """By row loss of hidden words, their number; loss of the pair, 1 if there is one, 1 if it is right: (B, 5)."""
        import torch
        from torch.nn import functional as F

        from llmtune.model.language_head import LanguageHead
        from llmtune.model.word_scores import WordScores

        if self._held is None or self._held[0] is not model:
            head = LanguageHead(model, trained=False, shared=True)
            self._held = (model, head, WordScores("masked", self._tokenizer))
        _, head, scores = self._held
        words_B2 = scores.sums(model.base_model, head, batch)[:, :2]
        view, classes_B = self._pairs(batch)
        view = {name: values.to(words_B2.device) for name, values in view.items()}
        classes_B = classes_B.to(words_B2.device)
        logits_B2 = model.cls.seq_relationship(model.base_model(**view).pooler_output).float()
        losses_B = F.cross_entropy(logits_B2, classes_B, reduction="none", ignore_index=-100)
        known_B = (classes_B >= 0).float()
        right_B = (logits_B2.argmax(dim=1) == classes_B).float()
        return torch.cat([words_B2, torch.stack([losses_B, known_B, right_B], dim=1)], dim=1)

    def _pairs(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Model inputs of pairs, and their classes: 0 of one text, 1 of two, -100 where a text can't be cut."""
        import torch

        clean = batch.views["clean"]
        ids_BT, mask_BT = clean["input_ids"].cpu().numpy(), clean.get("attention_mask")
        pairs, classes = [], []
        for place, row in enumerate(batch.row_ids):
            ids = ids_BT[place] if mask_BT is None else ids_BT[place][mask_BT[place].cpu().numpy() != 0]
            cut, other = self._halves.cut(ids), batch.facts["other"][place]
            foreign = bool(other) and generator(fold(0, "evaluation", row), "next_sentence").random() < 0.5
            pairs.append((ids, ids[:1]) if cut is None else (cut[0], np.asarray(other) if foreign else cut[1]))
            classes.append(-100 if cut is None else int(foreign))
        return self._halves.view(pairs), torch.tensor(classes)

    def loss(self, outputs_B5: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> Loss:
        """Of hidden words, as `run` gave it, added up; training goes by objectives."""
        return Loss(outputs_B5[:, 0].sum(), outputs_B5[:, 1].sum())

    # ---- results ----

    def score(self, predictions: Predictions) -> dict[str, float]:
        """`next_accuracy` and `next_loss` of pairs, half of which are of one text; `perplexity` of hidden words."""
        sums_5 = sum(np.stack(chunk.outputs).astype("float64").sum(axis=0) for chunk in predictions.chunks())
        total, words, next_loss, pairs, right = map(float, np.asarray(sums_5))
        scores = {"perplexity": math.exp(min(700.0, total / words)) if words else float("nan"), "words": words}
        if not pairs:
            return {**scores, "next_accuracy": float("nan"), "pairs": 0.0}
        return {**scores, "next_accuracy": right / pairs, "next_loss": next_loss / pairs, "pairs": pairs}

    def decode(self, chunk: Chunk) -> list[dict[str, Any]]:
        """For each row the mean loss of its hidden words, how many, and whether its pair was told rightly."""
        return [
            {"loss": round(total / words, 6) if words else None, "words": int(words),
             "next_right": bool(right) if pairs else None}
            for total, words, _, pairs, right in (output.tolist() for output in chunk.outputs)
        ]  # fmt: skip

    def table(self, decoded: Mapping[str, Any]) -> list[Any]:
        return [decoded[name] for name in self.table_names]

    def judge(self, predictions: Predictions, num_worst: int) -> dict[str, Any]:
        """`worst`: the pairs that were told wrongly, the surest first."""
        wrong = [
            (float(output[2]), chunk.start + row)
            for chunk in predictions.chunks() for row, output in enumerate(chunk.outputs)
            if output[3] and not output[4]
        ]  # fmt: skip
        worst = sorted(wrong, reverse=True)[:num_worst]
        found = predictions.some([row for _, row in worst]).columns
        return {"worst": [
            {"file": found["file"][place], "line": found["line"][place], "gold": "its pair",
             "predicted": f"wrongly, with a loss of {loss:.4f}", "text": found["text"][place]}
            for place, (loss, _) in enumerate(worst)
        ]}  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return {}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """There is nothing but the settings."""

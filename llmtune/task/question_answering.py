"""Extractive question answering: which words of a text answer a question, or that none do.

Legend: N questions, B rows, R windows, T tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, DataError, Fault, ModelError
from llmtune.core.ranges import at_least, between, one_of
from llmtune.core.types import Batch, Loss
from llmtune.data.labels import Labelled
from llmtune.data.roles import ANSWERS, CONTEXT, QUESTION
from llmtune.data.rows import RawSplits
from llmtune.data.tokens.answer_counts import count_answers
from llmtune.task import answer_results
from llmtune.task.answer_windows import WindowEncoder

if TYPE_CHECKING:
    import numpy as np
    import torch

LEAST_STRIDE = 64
NEED_UNANSWERABLE = (
    "best_f1", "best_em", "has_answer_f1", "has_answer_em", "no_answer_accuracy", "span_f1", "span_em",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering:
    name: str
    kind: str
    metric: str
    stride_tokens: int | str
    max_question_tokens: int
    max_answer_tokens: int | str
    null_threshold: float | str
    num_answers: int

    def __post_init__(self) -> None:
        from llmtune.scoring.answers import METRICS

        one_of("metric", self.metric, list(METRICS))
        between("max_question_tokens", self.max_question_tokens, 1, 512)
        between("num_answers", self.num_answers, 1, 100)
        for field in ("stride_tokens", "max_answer_tokens"):
            value = getattr(self, field)
            one_of(field, value, ("auto",)) if isinstance(value, str) else at_least(field, value, 1)
        if isinstance(self.null_threshold, str):
            one_of("null_threshold", self.null_threshold, ("auto",))
        stride, longest = self.stride_tokens, self.max_answer_tokens
        if isinstance(stride, int) and isinstance(longest, int) and stride < longest:
            raise ValueError(
                f"stride_tokens: {stride}, but answers have up to max_answer_tokens={longest}, and one at the edge of "
                f"two windows would be whole in none; must be {longest} or more"
            )

    def build(self) -> QuestionAnsweringTask:
        return QuestionAnsweringTask(self)


class QuestionAnsweringTask:
    """Rows are questions, each in one or several windows; what is kept of each are its best spans."""

    roles = (QUESTION, replace(CONTEXT, binds=True), ANSWERS)
    problem_type = "question_answering"
    labels = None
    num_outputs = 2
    fits = "models that transformers has a head for questions for: BERT, RoBERTa, DeBERTa, ModernBERT, XLNet, T5, GPT-2"

    def __init__(self, settings: QuestionAnswering):
        from llmtune.scoring.answers import METRICS

        self.settings = settings
        self.metric, self.mode = settings.metric, METRICS[settings.metric]
        self.answer_tokens: int | None = None
        """longest answer that is looked for; settled by train"""
        self.unanswerable: bool | None = None
        """has train questions without an answer? if not, "no answer" is never given"""
        self.threshold = 0.0 if isinstance(settings.null_threshold, str) else float(settings.null_threshold)
        self._longest: list[str] = []
        self._encoder: WindowEncoder | None = None

    # ---- data ----

    def read_labels(self, raw: RawSplits, label_names: Any, delimiter: str | None) -> Labelled:
        """Counts the questions with and without an answer; what is learnt of train is kept.

        Raises:
            DataError: no question of train has an answer.
            ConfigError: the metric is about unanswerable questions, and there are none.
        """
        counts = {split: count_answers(rows) for split, rows in raw.splits.items()}
        first = next(iter(counts))
        if self.unanswerable is None:
            found = counts[first]
            if not found.answerable:
                raise DataError(Fault(f"data.{first}", "no question has an answer", "", "look at data.columns.answers"))
            self.unanswerable, self._longest = found.unanswerable > 0, found.longest
            if self.metric in NEED_UNANSWERABLE and not found.unanswerable:
                raise ConfigError(
                    Fault("task.metric", f"{self.metric}, but every question of {first} has an answer",
                          "allowed: f1, em, loss", "type task.metric=f1")
                )  # fmt: skip
        report = {split: {"counts": found.by_name()} for split, found in counts.items()}
        warnings = [line for split, found in counts.items() for line in found.warnings(split)]
        return Labelled(self.problem_type, None, {split: [None] * len(rows) for split, rows in raw.splits.items()},
                        report, warnings)  # fmt: skip

    @property
    def encoding_key(self) -> dict[str, Any]:
        """What token ids and targets depend on besides the tokenizer and this code."""
        from llmtune.data.cache import code_version
        from llmtune.task import answer_windows

        answers = self.answer_tokens if self.answer_tokens is not None else self._longest
        return {
            "stride": self.settings.stride_tokens, "question": self.settings.max_question_tokens,
            "answer": self.settings.max_answer_tokens, "code": code_version(answer_windows),
            "answers": hashlib.sha256(json.dumps(answers).encode()).hexdigest(),
        }  # fmt: skip

    def encoder(self, tokenizer: Any) -> WindowEncoder:
        """Raises ModelError for a tokenizer that does not tell which characters its tokens stand for."""
        if not tokenizer.is_fast:
            raise ModelError(
                Fault("model", f"its tokenizer ({type(tokenizer).__name__}) does not say where tokens stand in a text",
                      "a tokenizer of the fast kind (tokenizer.json)")
            )  # fmt: skip
        if self.answer_tokens is None:
            self.answer_tokens = self._settled(tokenizer)
        stride = self.settings.stride_tokens
        if isinstance(stride, str):
            stride = max(LEAST_STRIDE, self.answer_tokens)
        self._encoder = WindowEncoder(
            tokenizer, stride_tokens=max(stride, self.answer_tokens),
            max_question_tokens=self.settings.max_question_tokens,
        )  # fmt: skip
        return self._encoder

    def _settled(self, tokenizer: Any) -> int:
        """`max_answer_tokens`, or the longest answer of train and two more: in its text it may begin inside a token."""
        most = self.settings.max_answer_tokens
        if not isinstance(most, str):
            return most
        encoded = tokenizer(self._longest, add_special_tokens=False, verbose=False)["input_ids"]
        return max(map(len, encoded)) + 2

    def collate_targets(self, targets: Sequence[Any], cuts: Any = None) -> dict[str, torch.Tensor]:
        """label_R2 (start and end; -100: not scored), region_R2 (the context begins and ends), row_R."""
        import torch

        from llmtune.task.answer_spans import rows_of

        flat_R4 = torch.tensor([number for target in targets for number in target], dtype=torch.long).view(-1, 4)
        rows_R = rows_of([len(target) // 4 for target in targets])
        return {"label": flat_R4[:, :2].contiguous(), "region": flat_R4[:, 2:].contiguous(), "row": rows_R}

    # ---- model and loss ----

    def model_class(self) -> Any:
        from transformers import AutoModelForQuestionAnswering

        return AutoModelForQuestionAnswering

    def config_values(self) -> dict[str, Any]:
        return {"num_labels": self.num_outputs}

    def probe_texts(self, columns: Mapping[str, list[Any]]) -> tuple[list[str], list[str]]:
        return list(columns["question"]), list(columns["context"])

    def set_loss(self, options: Any, targets: Sequence[Any]) -> None:
        """Raises ConfigError where what is for classes is set."""
        from llmtune.task.class_options import refuse_class_options

        refuse_class_options(self.settings.name, options)

    def count(self, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None) -> float:
        """Places that the loss is a sum over: a start and an end for each window that is scored."""
        from llmtune.task.answer_spans import scored

        counted_R = scored(targets["label"].cpu()).float()
        return 2 * float((counted_R if share_B is None else counted_R * share_B.cpu()[targets["row"].cpu()]).sum())

    def loss(
        self, logits_RT2: torch.Tensor, targets: Mapping[str, torch.Tensor], share_B: torch.Tensor | None = None
    ) -> Loss:
        """Cross-entropy of starts and ends over the places that can be one; each row counts by its share."""
        import torch

        from llmtune.task.answer_spans import span_losses

        losses_R = span_losses(logits_RT2.float(), targets["label"], targets["region"])
        total = (losses_R if share_B is None else losses_R * share_B[targets["row"]]).sum()
        return Loss(total, torch.tensor(self.count(targets, share_B), device=total.device))

    def divergence(
        self, first_RT2: torch.Tensor, second_RT2: torch.Tensor, targets: Mapping[str, torch.Tensor]
    ) -> Loss:
        """Sum over a batch of the symmetric KL between two predictions of starts and ends."""
        import torch

        from llmtune.task.answer_spans import span_divergences

        total = span_divergences(first_RT2.float(), second_RT2.float(), targets["label"], targets["region"]).sum()
        return Loss(total, torch.tensor(self.count(targets), device=total.device))

    # ---- results ----

    def outputs(self, logits_RT2: torch.Tensor, batch: Batch) -> list[np.ndarray]:
        """Of each row the score of "no answer" and the best spans, in context tokens: (1 + K, 3) each."""
        import numpy as np

        from llmtune.task.answer_spans import best_spans

        assert self.answer_tokens is not None
        ends = np.cumsum(batch.num_sequences)
        pieces = np.split(logits_RT2.float().cpu().numpy(), ends[:-1])
        return [
            best_spans(piece, np.array(regions).reshape(-1, 3), max_answer_tokens=self.answer_tokens,
                       num_spans=self.settings.num_answers)
            for piece, regions in zip(pieces, batch.facts["regions"])
        ]  # fmt: skip

    @property
    def limit(self) -> float:
        """The threshold in use; infinity: an answer is always given."""
        forced = not isinstance(self.settings.null_threshold, str)
        return self.threshold if self.unanswerable or forced else float("inf")

    def settle(self, scores: Mapping[str, float]) -> bool:
        """Take the threshold that is best on validation, where it is for `auto` to find; is it another one?"""
        before = self.threshold
        best = "best_em_threshold" if self.metric.endswith("em") else "best_f1_threshold"
        if isinstance(self.settings.null_threshold, str) and self.unanswerable and best in scores:
            self.threshold = float(scores[best])
        return self.threshold != before

    def score(self, predictions: Any) -> dict[str, float]:
        return answer_results.score(self, predictions)

    @property
    def fields(self) -> tuple[str, ...]:
        withheld = ("no_answer_probability", "no_answer_score") if self.limit != float("inf") else ()
        return ("answer", "start", "end", "probability", *withheld, "n_best")

    @property
    def table_names(self) -> list[str]:
        return list(self.fields[:-1])

    def table(self, decoded: Mapping[str, Any]) -> list[Any]:
        return [decoded[name] for name in self.table_names]

    def decode(self, chunk: Any) -> list[dict[str, Any]]:
        """For each row the answer (empty: none), its characters in the context, how sure it is, and the n best."""
        found = answer_results.decoded(self.encoder_in_use, chunk, self.limit)
        return [{name: one[name] for name in self.fields} for one in found]

    @property
    def encoder_in_use(self) -> WindowEncoder:
        if self._encoder is None:
            raise RuntimeError("rows are encoded before answers are read out of them")
        return self._encoder

    def judge(self, predictions: Any, num_worst: int) -> dict[str, Any]:
        return answer_results.judge(self, predictions, num_worst)

    def to_json(self) -> dict[str, Any]:
        """What `predict` and `evaluate` need besides the settings."""
        return {"answer_tokens": self.answer_tokens, "unanswerable": self.unanswerable, "threshold": self.threshold}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Undo `to_json`."""
        self.answer_tokens, self.unanswerable = plain["answer_tokens"], plain["unanswerable"]
        self.threshold = plain["threshold"]

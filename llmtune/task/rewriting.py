"""Texts that become other texts, in and out in words: translations, summaries, titles; learnt from pairs.

Encoder-decoders read a text on one side and write on the other; decoders go on from a prompt.

Legend: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import Fault, ModelError
from llmtune.core.parts import Prospect
from llmtune.core.ranges import at_least, one_of
from llmtune.data.labels import Labelled
from llmtune.data.roles import SOURCE, TARGET
from llmtune.data.rows import RawSplits
from llmtune.task import rewriting_results
from llmtune.task.rewriting_rows import Model, RewritingEncoder, joined, references
from llmtune.task.word_targets import WordTargets
from llmtune.task.writing import TOKEN_METRICS, Writing, check_writer, check_writing
from llmtune.task.writing_task import WritingTask

if TYPE_CHECKING:
    from llmtune.scoring.predictions import Chunk, Predictions

SHIFTED_BY_TARGET = ("mbart",)
"""families whose decoder begins with the last token of what is to be written"""


@dataclass(frozen=True, kw_only=True)
class Rewriting:
    name: str
    kind: str
    output: str
    template: str
    source_language: str | None
    target_language: str | None
    metric: str
    scores: list[str]
    bleu_tokenizer: str
    rouge_stemmer: bool
    max_target_tokens: int | None
    max_new_tokens: int
    num_beams: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    no_repeat_ngram: int
    length_penalty: float
    generate_rows: int | None

    def __post_init__(self) -> None:
        from llmtune.scoring.writing import METRICS, TOKENIZERS

        for name in self.scores:
            one_of("scores", name, list(METRICS))
        one_of("metric", self.metric, [*self.scores, *TOKEN_METRICS])
        one_of("bleu_tokenizer", self.bleu_tokenizer, TOKENIZERS)
        at_least("max_target_tokens", self.max_target_tokens, 1)
        if self.template != "auto" and self.template.count("{source}") != 1:
            raise ValueError(f"template: {self.template!r}; {{source}} must stand in it once, such as "
                             "'translate English to German: {source}'")  # fmt: skip
        if not self.output or self.output == "cut":
            raise ValueError(f"output: {self.output!r} can't be the name of a column of texts")
        check_writing(self)
        if self.generate_rows == 0 and self.metric not in TOKEN_METRICS:
            raise ValueError(f"generate_rows: 0, but metric={self.metric} needs texts that the model writes; "
                             f"type task.metric=loss, or task.generate_rows=100")  # fmt: skip

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError where no answer would have room behind its prompt, and for what can't go with answers."""
        check_writer(self, prospect)

    def build(self) -> RewritingTask:
        return RewritingTask(self)


class RewritingTask(WritingTask):
    """Rows are pairs of texts. What is kept of each row: how its known text was foreseen, and the one written."""

    roles = (SOURCE, replace(TARGET, required=True))
    problem_type = "rewriting"
    fits = "encoder-decoders (T5, BART, Marian, mBART, ...) and decoders (GPT-2, Llama, Qwen, ...)"

    def __init__(self, settings: Rewriting):
        from llmtune.scoring.writing import METRICS

        self.settings = settings
        self.metric, self.mode = settings.metric, {**METRICS, **TOKEN_METRICS}[settings.metric]
        self.fields = self.table_names = (settings.output, "cut")
        self.writing = Writing(settings)
        self.words = WordTargets(settings.name)
        self.model: Model | None = None
        self.signatures: dict[str, str] = {}
        """by score, everything that it hangs on; of the rows that were scored last"""
        self._tokenizer: Any = None

    # ---- data ----

    def read_labels(self, raw: RawSplits, label_names: Any, delimiter: str | None) -> Labelled:
        """Targets are left to the encoder; rows whose target is their source are told."""
        warnings, report = [], {}
        for split, rows in raw.splits.items():
            copies = num_references = 0
            for batch in rows.select_columns(["source", TARGET.kept]).iter(1000):
                for source, target in zip(batch["source"], batch[TARGET.kept]):
                    known = references(target)
                    copies, num_references = copies + (known[0] == joined(source)), num_references + len(known)
            report[split] = {"counts": {"references": num_references}}
            if copies:
                warnings.append(f"{split}: {copies:,} target(s) are their source, word for word")
        return Labelled(self.problem_type, None, {split: [None] * len(rows) for split, rows in raw.splits.items()},
                        report, warnings)  # fmt: skip

    def meet_model(self, config: Any) -> None:
        """Learn from the transformers config what rows are to look like.

        Raises:
            ModelError: a model that reads and does not write.
        """
        from llmtune.model.language_head import language_kind

        form = language_kind(config)
        if form not in ("sequence", "causal"):
            given = f"{config.model_type} models read and don't write"
            raise ModelError(Fault("model", given, f"task={self.settings.name} trains {self.fits}",
                                   "type model=tiny_encoder_decoder, or model=pretrained model.path=DIR"))  # fmt: skip
        start = getattr(config, "decoder_start_token_id", None)
        self.model = Model(form, start, config.model_type in SHIFTED_BY_TARGET)

    @property
    def encoding_key(self) -> dict[str, Any]:
        """What token ids hang on besides the tokenizer and this code."""
        from llmtune.data.cache import code_version
        from llmtune.data.tokens import answer_rows
        from llmtune.task import rewriting_rows

        settings = self.settings
        return {
            "model": self.model, "template": settings.template, "most": settings.max_target_tokens,
            "languages": [settings.source_language, settings.target_language], "new": settings.max_new_tokens,
            "code": code_version(rewriting_rows, answer_rows),
        }  # fmt: skip

    def encoder(self, tokenizer: Any) -> RewritingEncoder:
        assert self.model is not None  # by meet_model, or by restore
        settings = self.settings
        encoder = RewritingEncoder(
            tokenizer, self.model, template=settings.template,
            languages=(settings.source_language, settings.target_language),
            max_target_tokens=settings.max_target_tokens, max_new_tokens=settings.max_new_tokens,
            room=self.writing.room,
        )  # fmt: skip
        self.writing.use(tokenizer, start=encoder.start)
        self._tokenizer = tokenizer
        return encoder

    def probe_texts(self, columns: Mapping[str, list[Any]]) -> tuple[list[str], list[str]]:
        """A tokenizer is trained on both sides."""
        return [joined(kept) for kept in columns["source"]], [references(kept)[0] for kept in columns[TARGET.kept]]

    # ---- model and loss ----

    def model_class(self) -> Any:
        from llmtune.model.word_model import WordModel

        assert self.model is not None
        return WordModel(self.model.form, generation=self.writing.kept())

    def config_values(self) -> dict[str, Any]:
        return {}

    # ---- results ----

    def written(self, chunk: Chunk) -> list[tuple[str, bool] | None]:
        """For each row its text and whether its end was cut off; None where none was written."""
        found: list[tuple[str, bool] | None] = []
        for answers in self.writing.written(chunk):
            if answers is None:
                found.append(None)
                continue
            ids, is_cut = answers[0]
            text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            found.append((text.strip(), is_cut))
        return found

    def score(self, predictions: Predictions) -> dict[str, float]:
        """`settings.scores` from 0 to 100 (TER may be more), `perplexity` and `token_accuracy`, and `unfinished`, the
        share of texts that had not come to an end after `max_new_tokens`, or where the model has no more positions."""
        return rewriting_results.score(self, predictions)

    def judge(self, predictions: Predictions, num_worst: int) -> dict[str, Any]:
        return rewriting_results.judge(self, predictions, num_worst)

    def decode(self, chunk: Chunk) -> list[dict[str, Any]]:
        """For each row what was written, and whether it was cut off; None where nothing was."""
        told = [(None, None) if one is None else one for one in self.written(chunk)]
        return [dict(zip(self.fields, one)) for one in told]

    def to_json(self) -> dict[str, Any]:
        return {"model": None if self.model is None else self.model._asdict()}

    def restore(self, plain: Mapping[str, Any]) -> None:
        self.model = Model(**plain["model"])

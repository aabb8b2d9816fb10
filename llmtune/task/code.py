"""Programs in Python: a decoder writes them from a prompt or fills in a gap, and they are scored by their tests.

Chen et al. (arXiv 2107.03374) for prompts, tests and pass@k; Bavarian et al. (arXiv 2207.14255) for gaps.

Legend: N tokens that are to be written, V words of the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, DataError, Fault
from llmtune.core.parts import Prospect
from llmtune.core.ranges import at_least, between, one_of, positive
from llmtune.data.forms.programs import FILL, tests_of
from llmtune.data.labels import Labelled
from llmtune.data.roles import ENTRY_POINT, PROMPT, RESPONSE, TESTS
from llmtune.data.rows import RawSplits
from llmtune.data.text import fill_in
from llmtune.task import code_results
from llmtune.task.code_rows import CodeEncoder, check_template
from llmtune.task.code_trials import Trials
from llmtune.task.word_targets import WordTargets
from llmtune.task.writing import FIELDS, TOKEN_METRICS, Writing, check_writer, check_writing
from llmtune.task.writing_task import WritingTask, refuse_other_than_decoders

if TYPE_CHECKING:
    from llmtune.scoring.predictions import Chunk, Predictions

TESTING = ("stop", "num_samples", "pass_at", "run_tests", "sandbox", "test_seconds", "test_memory_mb", "test_workers")
GUESSES = {"prompt": ("text", "description", "docstring"), "response": ("canonical_solution", "code", "solution")}


@dataclass(frozen=True, kw_only=True)
class Code:
    name: str
    kind: str
    template: str
    stop: list[str]
    fim_share: float
    fim_form: str
    fim_tokens: list[str]
    num_samples: int
    pass_at: list[int]
    run_tests: str
    sandbox: str
    test_seconds: float
    test_memory_mb: int
    test_workers: int | str
    metric: str
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
        check_template(self.template)
        between("fim_share", self.fim_share, 0, 1)
        one_of("fim_form", self.fim_form, fill_in.FORMS)
        if len(set(self.fim_tokens)) != 3:
            raise ValueError(f"fim_tokens: {self.fim_tokens}; three are needed: of the prefix, the suffix, the middle")
        at_least("num_samples", self.num_samples, 1)
        for k in self.pass_at:
            between("pass_at", k, 1, self.num_samples)
        one_of("run_tests", self.run_tests, ("auto", "always", "never"))
        one_of("sandbox", self.sandbox, ("strict", "loose"))
        positive("test_seconds", self.test_seconds)
        at_least("test_memory_mb", self.test_memory_mb, 64)
        if isinstance(self.test_workers, str):
            one_of("test_workers", self.test_workers, ("auto",))
        else:
            at_least("test_workers", self.test_workers, 1)
        one_of("metric", self.metric, [*TOKEN_METRICS, "syntax_rate", *(f"pass@{k}" for k in self.pass_at)])
        check_writing(self)
        self._check_samples()

    def _check_samples(self) -> None:
        if self.num_samples > 1 and not self.temperature and self.num_beams < self.num_samples:
            raise ValueError(f"num_samples: {self.num_samples}, and without draws all would be the same program; "
                             "type task.temperature=0.8")  # fmt: skip
        if self.metric.startswith("pass@") and self.run_tests == "never":
            raise ValueError(f"metric: {self.metric}, and run_tests=never; type task.run_tests=always")
        if self.generate_rows == 0 and self.metric not in TOKEN_METRICS:
            raise ValueError(f"generate_rows: 0, but metric={self.metric} needs programs that the model writes; "
                             "type task.metric=loss, or task.generate_rows=50")  # fmt: skip

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError where no program has room."""
        check_writer(self, prospect)

    def build(self) -> CodeTask:
        return CodeTask(self)


class CodeTask(WritingTask):
    """Rows ask for programs. What is kept of each: how its known answer was foreseen, and those that were written."""

    roles = (
        replace(PROMPT, required=True, guesses=(*PROMPT.guesses, *GUESSES["prompt"])),
        replace(RESPONSE, sparse=True, guesses=(*RESPONSE.guesses, *GUESSES["response"])),
        replace(TESTS, known_before=True, sparse=True),
        replace(ENTRY_POINT, sparse=True),
    )
    problem_type = "code"
    fits = "decoders (GPT-2, Llama, Qwen, StarCoder, ...)"
    changeable = (*FIELDS, *TESTING)

    def __init__(self, settings: Code):
        self.settings = settings
        self.metric, self.mode = settings.metric, TOKEN_METRICS.get(settings.metric, "max")
        self.table_names = ("code", "verdict", "parses")
        more = ("samples",) if settings.num_samples > 1 else ()
        self.fields = (*self.table_names, "completion", "cut", *more)
        self.writing = Writing(settings, num_answers=settings.num_samples)
        self.words = WordTargets(settings.name)
        self.trials = Trials(settings)
        self._encoder: CodeEncoder | None = None
        self._has_gaps = settings.fim_share > 0
        self._is_trained = False

    # ---- data ----

    def read_labels(self, raw: RawSplits, label_names: Any, delimiter: str | None) -> Labelled:
        """Answers are left to the encoder; a share of the rows of train become programs with a gap.

        Raises:
            ConfigError: the metric is of tests, and validation has none, or they can't be run here.
            DataError: no column of train holds answers.
        """
        report, warnings, settings = {}, [], self.settings
        for split, rows in raw.splits.items():
            names = rows.column_names
            if split == "train" and "response" not in names and not self._is_trained:
                given = "no column of train is known to hold the programs that are to be learnt"
                raise DataError(Fault("data.columns.response", given, "", "type data.columns.response=NAME"))
            tested = sum(tests_of(kept) is not None for kept in rows["tests"][:]) if "tests" in names else 0
            self._has_gaps |= any(FILL in prompt for prompt in rows["prompt"][:])
            report[split] = {"counts": {"rows with tests": tested}}
            if split == "validation" and not tested and settings.metric.startswith("pass@"):
                given, fix = f"{settings.metric}, and no row of validation has tests", "task.metric=loss"
                raise ConfigError(Fault("task.metric", given, "data.columns.tests names their column", f"type {fix}"))
            if tested and self.trials.box() is None and self.trials.refusal is not None:
                warnings.append(f"tests of {split} are not run: {self.trials.refusal}")
                self.trials.is_told = True
        if settings.fim_share and "train" in raw.splits and not self._is_trained:
            raw.splits["train"] = fill_in.with_gaps(raw.splits["train"], settings.fim_share)
        return Labelled(self.problem_type, None, {split: [None] * len(rows) for split, rows in raw.splits.items()},
                        report, warnings)  # fmt: skip

    def meet_model(self, config: Any) -> None:
        """Raises ModelError for a model that is no decoder."""
        refuse_other_than_decoders(config, self.settings.name, self.fits)

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """What marks a gap, where rows have any."""
        return tuple(self.settings.fim_tokens) if self._has_gaps else ()

    @property
    def encoding_key(self) -> dict[str, Any]:
        """What token ids hang on besides the tokenizer and this code."""
        from llmtune.data.cache import code_version
        from llmtune.data.forms import programs
        from llmtune.data.tokens import answer_rows, chat_template, template_date
        from llmtune.task import code_rows

        settings = self.settings
        return {
            "template": settings.template, "gaps": [settings.fim_share, settings.fim_form, settings.fim_tokens],
            "new": settings.max_new_tokens,
            "code": code_version(code_rows, answer_rows, chat_template, template_date, programs, fill_in),
        }  # fmt: skip

    def encoder(self, tokenizer: Any) -> CodeEncoder:
        settings = self.settings
        self._encoder = CodeEncoder(
            tokenizer, template=settings.template, fim_tokens=settings.fim_tokens, fim_form=settings.fim_form,
            room=self.writing.room,
        )  # fmt: skip
        self.writing.use(tokenizer, stop_ids=self._encoder.stop_ids)
        return self._encoder

    def probe_texts(self, columns: Mapping[str, list[Any]]) -> tuple[list[str], list[str]]:
        """A tokenizer is trained on both sides."""
        answers = columns.get("response") or [None] * len(columns["prompt"])
        return list(columns["prompt"]), [json.loads(kept)[0] if kept else "" for kept in answers]

    # ---- model and loss ----

    def model_class(self) -> Any:
        from llmtune.model.word_model import WordModel

        return WordModel("causal", tuple(self.writing.stop_ids), self.writing.kept())

    def config_values(self) -> dict[str, Any]:
        return {}

    # ---- results ----

    def written(self, chunk: Chunk) -> list[list[tuple[str, bool]] | None]:
        """For each row the texts that were written, and whether their ends were cut off; None where none were."""
        assert self._encoder is not None
        text_of = self._encoder.text_of
        return [
            None if answers is None else [(text_of(ids), is_cut) for ids, is_cut in answers]
            for answers in self.writing.written(chunk)
        ]

    def score(self, predictions: Predictions) -> dict[str, float]:
        """`pass@k`, `syntax_rate` and `unfinished` of what was written; `perplexity` and `token_accuracy` of what is
        known."""
        return code_results.score(self, predictions)

    def judge(self, predictions: Predictions, num_worst: int) -> dict[str, Any]:
        return code_results.judge(self, predictions, num_worst)

    def decode(self, chunk: Chunk) -> list[dict[str, Any]]:
        """For each row the program that was written and what its tests say; None where nothing was."""
        return code_results.decoded(self, chunk)

    def to_json(self) -> dict[str, Any]:
        return {}

    def restore(self, plain: Mapping[str, Any]) -> None:
        self._is_trained = True

"""Instructions and dialogues: a decoder learns what an assistant says, turn by turn, and when it stops or calls a tool.

Legend: N tokens that are to be written, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.core.parts import Prospect
from llmtune.core.ranges import one_of
from llmtune.data.forms.conversation import INPUT, MESSAGES, PROMPT, RESPONSE, SYSTEM, TOOLS, conversation_of
from llmtune.data.labels import Labelled
from llmtune.data.rows import RawSplits
from llmtune.data.tokens.chat_template import ChatTemplate, new_tokens, own_words, template_text
from llmtune.task import dialogue_results
from llmtune.task.dialogue_rows import DialogueEncoder, conversations, look_through
from llmtune.task.word_targets import WordTargets
from llmtune.task.writing import TOKEN_METRICS, Writing, check_writer, check_writing
from llmtune.task.writing_task import WritingTask, refuse_other_than_decoders

if TYPE_CHECKING:
    from llmtune.scoring.predictions import Chunk, Predictions

OFTEN = 20
"""so many times a tokenizer that is trained for it sees the template's words"""


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    name: str
    kind: str
    template: str
    system: str | None
    turns: str
    answered: str
    exact: str
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
        one_of("turns", self.turns, ("all", "last"))
        one_of("answered", self.answered, ("last", "call"))
        one_of("exact", self.exact, list(dialogue_results.SCORES))
        own = dialogue_results.SCORES[self.exact]
        one_of("metric", self.metric, [*TOKEN_METRICS, *own])
        check_writing(self)
        if self.generate_rows == 0 and self.metric in own:
            raise ValueError(f"generate_rows: 0, but metric={self.metric} needs answers that the model writes; "
                             "type task.metric=loss, or task.generate_rows=100")  # fmt: skip

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError where no answer has room."""
        check_writer(self, prospect)

    def build(self) -> DialogueTask:
        return DialogueTask(self)


class DialogueTask(WritingTask):
    """Rows are dialogues. What is kept of each: how its answers were foreseen, and the one that was written."""

    roles = (MESSAGES, PROMPT, RESPONSE, INPUT, SYSTEM, TOOLS)
    problem_type = "dialogue"
    fits = "decoders (GPT-2, Llama, Qwen, Mistral, Gemma, ...)"

    def __init__(self, settings: Dialogue):
        self.settings = settings
        self.metric = settings.metric
        self.mode = TOKEN_METRICS.get(settings.metric, "max")
        self.table_names = ("response", *dialogue_results.FIELDS[settings.exact], "cut")
        self.fields = (*self.table_names, "messages")
        self.writing = Writing(settings)
        self.words = WordTargets(settings.name)
        self.template: ChatTemplate | None = None
        self._text: str | None = None
        """of a trained model's template"""

    # ---- data ----

    def check_row(self, values: Mapping[str, str | None]) -> None:
        """A row to predict from. Raises BadValue."""
        conversation_of(values, answered=False)

    def read_labels(self, raw: RawSplits, label_names: Any, delimiter: str | None) -> Labelled:
        """Answers are left to the encoder; counts what dialogues have, and tells of what looks like a mistake.

        Raises:
            DataError: answers without what `task.exact` compares, by file and line.
        """
        report, warnings = look_through(raw, self.settings.exact)
        return Labelled(self.problem_type, None, {split: [None] * len(rows) for split, rows in raw.splits.items()},
                        report, warnings)  # fmt: skip

    def meet_model(self, config: Any) -> None:
        """Raises ModelError for a model that is no decoder."""
        refuse_other_than_decoders(config, self.settings.name, self.fits)

    def new_tokens(self, tokenizer: Any) -> tuple[str, ...]:
        """Special tokens of the template."""
        return new_tokens(tokenizer, self.settings.template)

    @property
    def own_texts(self) -> list[str]:
        """What a tokenizer that is trained on the rows must know besides."""
        return own_words(self.settings.template) * OFTEN

    @property
    def encoding_key(self) -> dict[str, Any]:
        """What token ids hang on besides the tokenizer and this code."""
        from llmtune.data.cache import code_version
        from llmtune.data.forms import conversation, tool_schemas
        from llmtune.data.tokens import answer_rows, chat_template
        from llmtune.task import dialogue_rows

        settings = self.settings
        return {
            "template": None if self.template is None else self.template.text, "turns": settings.turns,
            "answered": settings.answered, "new": settings.max_new_tokens,
            "code": code_version(dialogue_rows, answer_rows, chat_template, conversation, tool_schemas),
        }  # fmt: skip

    def encoder(self, tokenizer: Any) -> DialogueEncoder:
        """Stores the template with the tokenizer. Raises ConfigError, ModelError where it can't be used."""
        settings = self.settings
        text = self._text or template_text(tokenizer, settings.template, settings.system)
        self.template = ChatTemplate(tokenizer, text)
        self.writing.use(tokenizer, stop_ids=self.template.stop_ids)
        return DialogueEncoder(
            self.template, turns=settings.turns, answered=settings.answered, room=self.writing.room
        )

    def probe_texts(self, columns: Mapping[str, list[Any]]) -> tuple[list[str], None]:
        """All that is said in each dialogue, and what it is told of tools."""
        return [dialogue_results.words_of(one) for one in conversations(columns)], None

    # ---- model and loss ----

    def model_class(self) -> Any:
        from llmtune.model.word_model import WordModel

        return WordModel("causal", tuple(self.writing.stop_ids), self.writing.kept())

    def config_values(self) -> dict[str, Any]:
        return {"eos_token_id": self.writing.stop_ids} if self.writing.stop_ids else {}

    # ---- results ----

    def written(self, chunk: Chunk) -> list[tuple[str, bool] | None]:
        """For each row the text of its answer and whether its end was cut off; None where none was written.

        Where calls of tools are read out of it, its special tokens stay.
        """
        assert self.template is not None
        found: list[tuple[str, bool] | None] = []
        for answers in self.writing.written(chunk):
            if answers is None:
                found.append(None)
                continue
            ids, is_cut = answers[0]
            text = self.template.tokenizer.decode(
                ids, skip_special_tokens=self.settings.exact != "calls", clean_up_tokenization_spaces=False
            )
            found.append((text.strip(), is_cut))
        return found

    def score(self, predictions: Predictions) -> dict[str, float]:
        """`perplexity` and `token_accuracy` of known answers; of those written `unfinished`, the share without an end
        after `max_new_tokens` or all positions of the model, and what `exact` compares."""
        return dialogue_results.score(self, predictions)

    def judge(self, predictions: Predictions, num_worst: int) -> dict[str, Any]:
        return dialogue_results.judge(self, predictions, num_worst)

    def decode(self, chunk: Chunk) -> list[dict[str, Any]]:
        """For each row the turn that was written, and the whole dialogue with it; None where nothing was."""
        return dialogue_results.decoded(self, chunk)

    def to_json(self) -> dict[str, Any]:
        return {"template": None if self.template is None else self.template.text}

    def restore(self, plain: Mapping[str, Any]) -> None:
        self._text = plain["template"]

"""Relation classification: which relation holds between two entities that are marked in a text.

The marks are tokens of the model, whose states at them are read (entity markers and entity start of Baldini Soares et
al., arXiv 1906.03158).

Legend: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import ConfigError, DataError, Fault, ModelError, did_you_mean
from llmtune.core.parts import Prospect
from llmtune.core.ranges import one_of
from llmtune.data.forms.entity_pairs import MARKS, check_pair, marked_text, unmarked
from llmtune.data.forms.values import BadValue
from llmtune.data.labels import SHOWN, Labelled
from llmtune.data.roles import HEAD, LABEL, TAIL, TEXT, TOKENS
from llmtune.data.rows import RawSplits
from llmtune.task.classification import Classification, ClassificationTask
from llmtune.task.entity_windows import kept_around, special_frame

if TYPE_CHECKING:
    from llmtune.scoring.predictions import Chunk, Predictions

STATES = ("auto", "starts", "starts_and_first", "ends_and_last")
NONE_OF_THEM = ("other", "no_relation", "norelation", "no relation", "none", "na", "n/a", "无关系", "未知")
"""names, in small letters, of the class for rows without a relation"""


@dataclass(frozen=True, kw_only=True)
class Relation:
    name: str
    kind: str
    metric: str
    other: str | None
    states: str

    def __post_init__(self) -> None:
        from llmtune.scoring.relation import METRICS

        one_of("metric", self.metric, list(METRICS))
        one_of("states", self.states, STATES)

    def check(self, prospect: Prospect) -> None:
        """Raises ModelError: two stacks, of which the second one has no token for each of the text."""
        if prospect.model_config.is_encoder_decoder:
            given = f"{prospect.config.model.name} ({prospect.model_config.model_type}) is an encoder-decoder"
            raise ModelError(Fault("model", given, RelationTask.fits, "type model=tiny_bert"))

    def build(self) -> RelationTask:
        return RelationTask(self)


class RelationTask:
    """Marks, windows and the scores of relations; labels, losses and decoding are those of classification."""

    roles = (replace(TEXT, unless="tokens"), TOKENS, replace(HEAD, sparse=True), replace(TAIL, sparse=True), LABEL)
    fits = "encoders and decoders fit (BERT, RoBERTa, GPT-2, ...)"
    new_tokens = MARKS
    check_row = staticmethod(check_pair)

    def __init__(self, settings: Relation):
        from llmtune.scoring.relation import METRICS

        self.settings = settings
        self.metric, self.mode = settings.metric, METRICS[settings.metric]
        self.other: str | None = None
        self.classes = ClassificationTask(Classification(
            name=settings.name, kind="classification", problem_type="single_label", metric="auto", threshold=0.5,
            pooling="auto",
        ))  # fmt: skip
        self._mark_ids: list[int] = []

    def __getattr__(self, name: str) -> Any:
        if name == "classes":  # not made yet: a copy is being put together
            raise AttributeError(name)
        return getattr(self.classes, name)

    # ---- data ----

    def read_labels(self, raw: RawSplits, label_names: Any, delimiter: str | None) -> Labelled:
        """As of classification; finds the class for rows without a relation.

        Raises:
            DataError: rows whose entities can't be told, by file and line.
            ConfigError: `task.other` is no class.
        """
        faults = [fault for split, rows in raw.splits.items() for fault in _unreadable(split, rows)]
        if faults:
            raise DataError(*faults)
        labelled = self.classes.read_labels(raw, label_names, delimiter)
        assert self.classes.labels is not None  # single_label has them
        names = self.classes.labels.names
        self.other = self.settings.other
        if self.other == "auto":
            self.other = next((name for name in names if name.casefold() in NONE_OF_THEM), None)
        if self.other is not None and self.other not in names:
            raise ConfigError(
                Fault("task.other", f"no class {self.other!r}", f"classes: {', '.join(names[:SHOWN])}",
                      did_you_mean(self.other, names) or "type task.other=null if there is none")
            )  # fmt: skip
        return labelled

    def encoder(self, tokenizer: Any) -> Callable[[Mapping[str, list[Any]], int | None], dict[str, list[Any]]]:
        """`encode(columns, max_tokens)` of texts with their marks; a long one is cut around the entities."""
        ids = tokenizer.convert_tokens_to_ids(list(MARKS))
        if len({*ids, tokenizer.unk_token_id}) <= len(ids):
            raise ConfigError(
                Fault("task", "relation beside another task: the tokenizer does not know the marks of entities", "",
                      "type task=relation, and the other task beside it")
            )  # fmt: skip
        self._mark_ids = ids
        frame = special_frame(tokenizer, ids)

        def encode(columns: Mapping[str, list[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
            texts = [_spaced(text) for text in _texts(columns)]
            encoded = tokenizer(
                texts, padding=False, truncation=False, verbose=False, return_attention_mask=False
            )  # fmt: skip
            made = {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}
            for row, tokens in enumerate(made["input_ids"]):
                if max_tokens and len(tokens) > max_tokens:
                    kept = kept_around(tokens, ids, frame, max_tokens, texts[row])
                    for rows in made.values():
                        rows[row] = [rows[row][place] for place in kept]
            return made

        return encode

    def probe_texts(self, columns: Mapping[str, list[Any]]) -> tuple[list[str], None]:
        """The texts with their marks."""
        return _texts(columns), None

    # ---- model ----

    def model_class(self) -> Any:
        from llmtune.model.entity_pair import EntityPairClassifier

        return EntityPairClassifier

    def config_values(self) -> dict[str, Any]:
        """What classification says, the ids of the marks and which states are read."""
        read = {"entity_marks": self._mark_ids, "entity_states": self.settings.states}
        return {**self.classes.config_values(), **read}

    # ---- results ----

    def score(self, predictions: Predictions) -> dict[str, float]:
        """Scores with and without the class for rows that have no relation."""
        import numpy as np

        from llmtune.scoring.relation import score

        predicted, gold = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for logits_NC, targets_N in self.classes.blocks(predictions):
            predicted.append(logits_NC.argmax(axis=1))
            gold.append(targets_N)
        assert self.classes.labels is not None
        plain = self.classes.score(predictions)
        kept = {name: plain[name] for name in ("accuracy", "f1_micro", "f1_macro", "mcc") if name in plain}
        return score(np.concatenate(predicted), np.concatenate(gold), self.classes.labels.names, self.other) | kept

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.classes.fields, "head", "tail")

    def decode(self, chunk: Chunk) -> list[dict[str, Any]]:
        """As of classification, and `head` and `tail`: {text, start, end} in the text without marks."""
        entities = [unmarked(text)[1] for text in _texts(chunk.columns)]
        return [{**one, **two} for one, two in zip(self.classes.decode(chunk), entities)]

    @property
    def table_names(self) -> list[str]:
        return ["label", "probability", "head", "tail", *self.classes.table_names[2:]]

    def table(self, decoded: Mapping[str, Any]) -> list[Any]:
        label, probability, *others = self.classes.table(decoded)
        return [label, probability, decoded["head"]["text"], decoded["tail"]["text"], *others]

    def judge(self, predictions: Predictions, num_worst: int) -> dict[str, Any]:
        """As of classification; texts of errors have their marks."""
        from llmtune.task.error_analysis import judged

        return judged(self.classes, _Marked(predictions), num_worst)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        return {**self.classes.to_json(), "other": self.other, "mark_ids": self._mark_ids}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Undo `to_json`."""
        self.classes.restore(plain)
        self.other, self._mark_ids = plain["other"], plain["mark_ids"]


class _Marked:
    """Predictions whose rows have their marks in the text."""

    def __init__(self, predictions: Predictions):
        self.chunks = predictions.chunks
        self._some = predictions.some

    def some(self, rows: Sequence[int]) -> Chunk:
        chunk = self._some(rows)
        return replace(chunk, columns={**chunk.columns, "text": _texts(chunk.columns)})


def _texts(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Rows with their marks. Raises DataError with a row's words where its entities can't be told."""
    names = [name for name in ("text", "tokens", "head", "tail") if columns.get(name) is not None]
    texts = []
    for values in zip(*(columns[name] for name in names)):
        row = dict(zip(names, values))
        try:
            texts.append(marked_text(row))
        except BadValue as bad:
            raise DataError(Fault(repr(row.get("text") or row.get("tokens"))[:80], str(bad))) from bad
    return texts


def _spaced(text: str) -> str:
    """Blanks before an opening mark go behind it: byte-level tokenizers know a word by the blank in front of it."""
    for mark in MARKS[::2]:
        text = text.replace(f" {mark}", f"{mark} ")
    return text


def _unreadable(split: str, rows: Any) -> list[Fault]:
    """Rows whose entities can't be told; most were found while they were read."""
    names = [name for name in ("text", "tokens", "head", "tail") if name in rows.column_names]
    faults, bad = [], 0
    for batch in rows.select_columns([*names, "file", "line"]).with_format(None).iter(1000):
        for values in zip(*(batch[name] for name in (*names, "file", "line"))):
            row = dict(zip((*names, "file", "line"), values))
            try:
                check_pair(row)
            except BadValue as reason:
                bad += 1
                faults += [Fault(f"{row['file']}:{row['line']}", str(reason))] if bad <= SHOWN else []
    if bad:
        faults.append(Fault(f"data.{split}", f"{bad} of {len(rows)} rows can't be used"))
    return faults

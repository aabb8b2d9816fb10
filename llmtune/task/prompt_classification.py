"""Classification by a prompt: a masked language model fills a template, and the words it may fill in stand for labels.

Few labels go further, as the head is not new (pattern-exploiting training, arXiv 2001.07676; LM-BFF, 2012.15723).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmtune.core.errors import ConfigError, Fault, ModelError, did_you_mean
from llmtune.core.parts import Prospect
from llmtune.data.rows import RawSplits
from llmtune.task.classification import Classification, ClassificationTask, Labelled
from llmtune.task.template import Template, parsed

OFTEN = 20
"""so many times a word is seen by a tokenizer that is trained for it: no piece of it is more frequent than itself"""


@dataclass(frozen=True, kw_only=True)
class PromptClassification:
    name: str
    kind: str
    template: str
    verbaliser: str | dict[str, Any]
    metric: str

    def __post_init__(self) -> None:
        parsed(self.template)
        words_by_label(self.verbaliser)

    def build(self) -> PromptClassificationTask:
        return PromptClassificationTask(self)

    def check(self, prospect: Prospect) -> None:
        """Raises ModelError unless the model fills masks and, where it was pretrained, learnt to."""
        from llmtune.model.language_head import head_is_there

        model = prospect.config.model
        if model.path is not None and not head_is_there(model, prospect.model_config):
            raise ModelError(
                Fault("model.path", f"{model.path} has no trained masked-language-model head, which a prompt asks",
                      "a model with one (bert-base-uncased, roberta-base, or one that task=masked_lm trained)",
                      "type task=classification")
            )  # fmt: skip


class PromptClassificationTask:
    """The template and its words; labels, losses, scores and decoding are those of classification, which it holds."""

    fits = "it asks encoders that fill masks (BERT, RoBERTa, ...); type task=classification"

    def __init__(self, settings: PromptClassification):
        self.settings = settings
        self.template = Template(settings.template)
        self.words = words_by_label(settings.verbaliser)
        self.classes = ClassificationTask(Classification(
            name=settings.name, kind="classification", problem_type="single_label", metric=settings.metric,
            threshold=0.5, pooling="auto",
        ))  # fmt: skip
        self._mask_id: int | None = None
        self._word_ids: list[list[int]] = []
        """ids of words by label, in the order of labels"""

    def __getattr__(self, name: str) -> Any:
        if name == "classes":  # not made yet: a copy is being put together
            raise AttributeError(name)
        return getattr(self.classes, name)

    @property
    def encoding_key(self) -> str:
        """What token ids depend on besides tokenizer and code."""
        return self.settings.template

    @property
    def own_texts(self) -> list[str]:
        """What a tokenizer that is trained on the rows must know besides: the words that stand for labels."""
        return [f" {word}" for words in self.words.values() for word in words] * OFTEN

    def read_labels(self, raw: RawSplits, label_names: Any, delimiter: str | None) -> Labelled:
        """As of classification. Raises ConfigError: labels and verbaliser differ, or a text that the template lacks."""
        labelled = self.classes.read_labels(raw, label_names, delimiter)
        assert self.classes.labels is not None  # single_label has them
        names, given = self.classes.labels.names, self.words
        faults = [
            Fault("task.verbaliser", f"no label {label!r}", f"labels: {', '.join(names)}", did_you_mean(label, names))
            for label in given
            if label not in names
        ]
        missing = [name for name in names if name not in given]
        if missing:
            faults.append(Fault("task.verbaliser", f"no word for {', '.join(missing)}", "each label has one or several",
                                f"type task.verbaliser='{missing[0]}: WORD; ...'"))  # fmt: skip
        there = {name for rows in raw.splits.values() for name in rows.column_names}
        faults += [
            Fault("task.template", f"names {{{role}}}, but rows have none", "", f"type data.columns.{role}=NAME")
            for role in self.template.roles
            if role not in there
        ]
        if faults:
            raise ConfigError(*faults)
        return labelled

    def encoder(self, tokenizer: Any) -> Callable[[Mapping[str, list[Any]], int | None], dict[str, list[Any]]]:
        """`encode(columns, max_tokens)` of filled-in templates. Raises ConfigError: a word is not one token."""
        if tokenizer.mask_token_id is None:
            raise ModelError(Fault("model", "the tokenizer has no mask token", self.fits))
        self._mask_id = tokenizer.mask_token_id
        self._word_ids = self._found(tokenizer)
        return self.template.encoder(tokenizer)

    def _found(self, tokenizer: Any) -> list[list[int]]:
        assert self.classes.labels is not None  # read before rows are encoded
        faults, found = [], []
        known = None
        for label in self.classes.labels.names:
            ids = {word: _ids(tokenizer, word) for word in self.words[label]}
            for word in (word for word, pieces in ids.items() if len(pieces) != 1):
                known = known or [token.lstrip("Ġ▁") for token in tokenizer.get_vocab()]
                faults.append(
                    Fault("task.verbaliser", f"{word!r} for {label} is {len(ids[word]) or 'no'} tokens of this model",
                          "a mask stands for one token", did_you_mean(word, known))
                )  # fmt: skip
            found.append([pieces[0] for pieces in ids.values() if pieces])
        if faults:
            raise ConfigError(*faults)
        return found

    def model_class(self) -> Any:
        from llmtune.model.prompted import PromptedMaskedLM

        assert self._mask_id is not None  # `encoder` or `restore` came before
        return PromptedMaskedLM(self._mask_id, self._word_ids)

    def to_json(self) -> dict[str, Any]:
        return {**self.classes.to_json(), "mask_id": self._mask_id, "word_ids": self._word_ids}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Undo `to_json`."""
        self.classes.restore(plain)
        self._mask_id, self._word_ids = plain["mask_id"], plain["word_ids"]


def words_by_label(given: str | Mapping[str, Any]) -> dict[str, list[str]]:
    """Of "good: great, fine; bad: poor", or the same as a section.

    Raises:
        ValueError: a label without words, or twice.
    """
    if isinstance(given, str):
        pairs = [piece.rpartition(":")[::2] for piece in given.split(";") if piece.strip()]
        found = [(label.strip(), words.split(",")) for label, words in pairs]
    else:
        found = [(str(label), words if isinstance(words, list) else [words]) for label, words in given.items()]
    cleaned = {label: [str(word).strip() for word in words if str(word).strip()] for label, words in found}
    if not cleaned or len(cleaned) < len(found) or not all(label and words for label, words in cleaned.items()):
        allowed = "for each label a word or several, such as 'good: great, fine; bad: poor'"
        raise ValueError(f"verbaliser: {given!r}; {allowed}")
    return cleaned


def _ids(tokenizer: Any, word: str) -> list[int]:
    """Tokens of a word in the middle of a text; none for what the tokenizer doesn't know."""
    ids = tokenizer(f" {word.strip()}", add_special_tokens=False)["input_ids"]
    return [] if tokenizer.unk_token_id in ids else ids

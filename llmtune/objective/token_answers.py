"""Answers token by token: where a batch has them, how a model gives them, how far those of two are apart.

Word-level distillation of models that write (Kim & Rush, arXiv 1606.07947), of masked language models (DistilBERT,
arXiv 1910.01108), and of taggers.

Legend: R sequences, T tokens, N tokens that are answered, D width, V words of the vocabulary or classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from llmtune.core.types import Batch
from llmtune.data.batches.feed import WANTED
from llmtune.model import language_head
from llmtune.model.language_head import LanguageHead, next_words
from llmtune.model.word_model import HEAD_ATTRIBUTE, WordModel
from llmtune.objective.soft_targets import distance_by_row

NEXT = "distillation/next"
"""name among a batch's targets of the words that come next, where a task leaves them to an objective"""
SHIPPED = {"masked": "masked_lm", "sequence": "denoising"}
"""by kind of language model: the objective that says what is hidden"""


class TokenAnswers(NamedTuple):
    """Where the tokens of a batch are that a teacher answers."""

    form: str
    """words: of a task that writes | tags: a class a token | language: of a task that reads plain texts"""
    kind: str | None = None
    """of words and language the kind of model: masked | causal | sequence (an encoder-decoder)"""
    view: str = "clean"
    target: str = "label"
    """name among the targets, below 0 where nothing is answered; of words the view itself says where"""

    @property
    def of_words(self) -> bool:
        """Are the answers words of the vocabulary?"""
        return self.form != "tags"

    def prepare(self, batch: Batch) -> None:
        if self.target == NEXT:
            batch.targets[NEXT] = next_words(batch.views["clean"])

    def places(self, batch: Batch) -> torch.Tensor:
        """(R, T), true where there is an answer; T counts a decoder's tokens if there is one."""
        return batch.views[self.view][WANTED].bool() if self.form == "words" else batch.targets[self.target] >= 0

    def by_sequence(self, batch: Batch) -> torch.Tensor:
        """How many there are in each sequence: (R,)."""
        return self.places(batch).sum(1).float()

    def how_many(self, batch: Batch) -> float:
        return float(self.places(batch).sum())


def token_answers(config: Any, task: Any) -> TokenAnswers | None:
    """Of a task whose labels are known; None where it has no answers by token, or none that can be compared."""
    from transformers import AutoModelForTokenClassification

    model_class = task.model_class()
    if isinstance(model_class, WordModel):
        return TokenAnswers("words", model_class.kind)
    if model_class is AutoModelForTokenClassification:
        return TokenAnswers("tags")
    kind = plain_text_kind(task)
    if kind == "causal":
        return TokenAnswers("language", kind, target=NEXT)
    if kind is not None and objective_of_plain_text(config, kind):
        name = SHIPPED[kind]
        return TokenAnswers("language", kind, f"masked for {name}" if kind == "masked" else name, name)
    return None


def plain_text_kind(task: Any) -> str | None:
    """Of a task that trains a language model on plain texts the kind of model; None: it is another task."""
    if task.problem_type != "language_modeling":
        return None
    model_class, kinds = task.model_class(), ("masked", "causal", "sequence")
    return next((kind for kind in kinds if model_class is language_head.language_class(kind)), None)


def objective_of_plain_text(config: Any, kind: str) -> bool:
    """Is the objective there that hides words of the task's own rows?"""
    part = config.objective.get(SHIPPED[kind])
    return part is not None and part.rows is None


def head_of(model: Any, answers: TokenAnswers) -> LanguageHead | None:
    """What makes words of a model's last hidden states; None where only the model as a whole does."""
    if answers.form == "words":
        return getattr(model, HEAD_ATTRIBUTE)[0]
    return LanguageHead(model, trained=True, shared=True) if answers.form == "language" else None


class Spoken(NamedTuple):
    """What a model says at N tokens."""

    items: torch.Tensor
    """scores (N, V); or the states (N, D) that `head` makes them of"""
    head: Callable[[torch.Tensor], torch.Tensor] | None
    num_words: int

    def scores(self, part: slice) -> torch.Tensor:
        return self.items[part] if self.head is None else self.head(self.items[part])


def spoken(trunk: Any, head: Any, answers: TokenAnswers, batch: Batch) -> Spoken:
    """By a model behind a trunk: the run of the backbone, and where it is the same the head's, is the task's own.

    head: of `head_of`, or what does the same and has `num_words`.
    """
    places = answers.places(batch)
    if answers.form == "tags":
        return _whole(trunk.logits(answers.view, batch)[places])
    if answers.form == "words" and _at_once(head, len(batch.targets["label"])):
        return _whole(trunk.logits(answers.view, batch))
    output = trunk.output(answers.view, batch)
    if not hasattr(output, "last_hidden_state"):  # T5's language model has no backbone apart from its head
        return _whole(output.logits[places])
    return Spoken(output.last_hidden_state[places], head, head.num_words)


def _at_once(head: Any, num: int) -> bool:
    """Are the scores of all tokens made together? Just where the task's own loss makes them so."""
    return head is None or num * head.num_words <= language_head.MOST_SCORES


def _whole(scores_NV: torch.Tensor) -> Spoken:
    return Spoken(scores_NV, None, scores_NV.shape[-1])


def token_distance(
    own: Spoken, other: Spoken, temperature: float, order: Sequence[int] | None = None
) -> torch.Tensor:
    """T^2 KL(other || own) summed over the tokens, over the words that both know; no gradient goes into `other`.

    Where the scores of all tokens would take too much memory they are made, and made again in the backward pass,
    piece by piece.

    order: for each class of `own` that of `other` which is the same; None: the same order.
    """
    num, words = len(own.items), max(own.num_words, other.num_words)
    piece = num if num * words <= language_head.MOST_SCORES else max(1, language_head.MOST_SCORES // (4 * words))
    total = own.items[:0].float().sum()  # a gradient of 0 where nothing is answered
    for start in range(0, num, max(1, piece)):
        some = (own, other, slice(start, start + piece), temperature, order)
        again = piece < num and torch.is_grad_enabled()
        total = total + (checkpoint(_apart, *some, use_reentrant=False) if again else _apart(*some))
    return total


def _apart(
    own: Spoken, other: Spoken, part: slice, temperature: float, order: Sequence[int] | None
) -> torch.Tensor:
    mine_NV = own.scores(part)
    with torch.no_grad():
        wanted_NV = other.scores(part)
    if order is not None:
        wanted_NV = wanted_NV[:, order]
    # models of one family pad one vocabulary to several sizes
    words = min(mine_NV.shape[1], wanted_NV.shape[1])
    return distance_by_row("single_label", mine_NV[:, :words], wanted_NV[:, :words], temperature).sum()

"""What is learnt from a teacher, added up: its answers, and what its layers gave.

Legend: N rows, B rows of a batch, R sequences of them, C classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from llmtune.core.parts import Parts
from llmtune.core.protocols import Views
from llmtune.core.schedules import weight_schedule
from llmtune.core.types import Batch, Loss
from llmtune.objective.attention_dropout import drops_attention, stop_dropping_attention
from llmtune.objective.layer_pairs import stack_pairs
from llmtune.objective.live_teacher import LiveTeacher, backbone_output, real_tokens
from llmtune.objective.matching import Matching
from llmtune.objective.soft_targets import distance_by_row, num_items
from llmtune.objective.teacher import Teacher, label_order, same_words
from llmtune.objective.teacher_answers import stored_logits
from llmtune.objective.token_answers import TokenAnswers, head_of, spoken, token_answers, token_distance

ANSWERS = "distillation/logits"
"""name among a batch's targets of what the teacher said of its rows"""


def distillation_loss(settings: Any, teacher: Teacher, parts: Parts) -> DistillationLoss:
    """The objective; the teacher is opened only for what the cache doesn't hold."""
    task, plugins, say = parts.task, parts.config.run.plugins, parts.console.say
    tokens = token_answers(parts.config, task)
    open_teacher = functools.cache(lambda: teacher.open(
        plugins, opened_as(settings, teacher, task, tokens), attentions=bool(settings.attentions)
    ))  # fmt: skip
    answers: Any = None
    if settings.answers and tokens is not None:
        order = None if tokens.of_words else label_order(teacher, task)
        answers = AnswersOfTokens(tokens, head_of(parts.network, tokens), settings.temperature, order)
    elif settings.answers:
        if not same_words(teacher, parts.token_table):
            say(f"the teacher {teacher.given} has another vocabulary: it reads the texts by its own")
        order = None if task.problem_type == "regression" else label_order(teacher, task)
        logits_NC = stored_logits(teacher, open_teacher, parts)
        answers = AnswersOfRows(task.problem_type, logits_NC, order, settings.temperature)
    matching = matching_of(settings, parts, teacher.config) if settings.wants else None
    live = None
    if settings.wants or (settings.answers and tokens is not None):
        live = LiveTeacher(open_teacher(), settings.wants, tokens if settings.answers else None)
    weight = weight_schedule(settings.weight, parts.num_steps)
    return DistillationLoss(weight, settings, answers, (matching, tokens), live)


def opened_as(settings: Any, teacher: Teacher, task: Any, tokens: TokenAnswers | None) -> Any:
    """The class that a teacher is opened as; None: the one that it was trained as, or a backbone alone."""
    if tokens is not None and tokens.of_words and settings.answers:
        return task.model_class()
    if teacher.place is not None or not settings.answers:
        return None
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    return AutoModelForTokenClassification if tokens is not None else AutoModelForSequenceClassification


def matching_of(settings: Any, parts: Parts, teacher_config: Any) -> Matching:
    """What compares the layers; where it compares attention, the student's drops none from now on."""
    own = parts.network.config
    if settings.attentions and drops_attention(parts.network):
        stop_dropping_attention(parts.network)
        parts.console.say("distillation: attention is learnt, so the student's drops no weights (other dropout stays)")
    return Matching(
        stack_pairs(settings.layers, own, teacher_config), student_width=own.hidden_size,
        teacher_width=teacher_config.hidden_size, seed=parts.config.seed,
    )  # fmt: skip


class AnswersOfRows:
    """T^2 KL(teacher || student) of each row, by logits_NC that the teacher gave before."""

    def __init__(self, problem_type: str, logits_NC: np.ndarray, order: Sequence[int] | None, temperature: float):
        self.problem_type = problem_type
        self.logits_NC, self.order = logits_NC, None if order is None else list(order)
        self.temperature = temperature

    def prepare(self, batch: Batch) -> None:
        logits_BC = torch.from_numpy(self.logits_NC[batch.row_ids])
        batch.targets[ANSWERS] = logits_BC if self.order is None else logits_BC[:, self.order]

    def count(self, batch: Batch) -> float:
        return num_items(self.problem_type, batch.targets["label"])

    def by_sequence(self, batch: Batch) -> torch.Tensor:
        """(R,): how much of the count each sequence has."""
        return by_sequence(batch) * (self.count(batch) / len(batch.row_ids))

    def total(self, trunk: Views, batch: Batch, teacher: Any) -> torch.Tensor:
        own_BC, wanted_BC = trunk.logits("clean", batch), batch.targets[ANSWERS]
        return distance_by_row(self.problem_type, own_BC, wanted_BC, self.temperature).sum()


class AnswersOfTokens:
    """The same of each token that is answered, by a teacher that reads the batch beside the student."""

    def __init__(self, tokens: TokenAnswers, head: Any, temperature: float, order: Sequence[int] | None = None):
        self.tokens, self.temperature, self.order = tokens, temperature, order
        self._head = head
        self.count, self.by_sequence = tokens.how_many, tokens.by_sequence

    def prepare(self, batch: Batch) -> None:
        self.tokens.prepare(batch)

    def total(self, trunk: Views, batch: Batch, teacher: Any) -> torch.Tensor:
        own = spoken(trunk, self._head, self.tokens, batch)
        return token_distance(own, teacher.spoken(batch), self.temperature, self.order)


class DistillationLoss(nn.Module):
    """answers T^2 KL(teacher || student) + hidden_states d(hidden states) + attentions d(attention).

    Counted are rows (of several labels rows x labels), or where answers are learnt token by token those tokens; the
    layers of a sequence count by as many of them as it has.

    Args:
        answers: None where there are none to learn.
        layers: what compares them, None if nothing does; and where the task has answers by token.
    """

    name = "distillation"
    feed = "task"

    def __init__(
        self, weight: Callable[[int], float], settings: Any, answers: AnswersOfRows | AnswersOfTokens | None,
        layers: tuple[Matching | None, TokenAnswers | None], teacher: LiveTeacher | None,
    ):  # fmt: skip
        super().__init__()
        self.weight = weight
        self.settings = settings
        self.matching, self.tokens = layers
        self.wants = settings.wants
        self.view = "clean" if self.tokens is None else self.tokens.view
        self._held = (answers, teacher)  # not registered: a teacher is not trained, and no checkpoint has it

    @property
    def answers(self) -> AnswersOfRows | AnswersOfTokens | None:
        return self._held[0]

    @property
    def teacher(self) -> LiveTeacher | None:
        return self._held[1]

    def prepare(self, batch: Batch) -> None:
        if self.answers is not None:
            self.answers.prepare(batch)
        elif self.tokens is not None:
            self.tokens.prepare(batch)

    def count(self, batch: Batch) -> float:
        return float(len(batch.row_ids)) if self.answers is None else self.answers.count(batch)

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        total: Any = 0.0
        if self.answers is not None:
            total = self.settings.answers * self.answers.total(trunk, batch, self.teacher)
        if self.matching is not None:
            # as many items as the answers are a sum over
            items_R = (by_sequence if self.answers is None else self.answers.by_sequence)(batch)
            apart_R = self._layers(trunk, batch, self.matching)
            total = total + (apart_R * items_R.to(apart_R.device)).sum()
        if self.teacher is not None:
            self.teacher.forget()
        return Loss(total, torch.tensor(self.count(batch), device=total.device))

    def _layers(self, trunk: Views, batch: Batch, matching: Matching) -> torch.Tensor:
        """(R,) how far the layers are apart."""
        assert self.teacher is not None  # layers are compared with somebody's
        own, other = backbone_output(trunk, self.view, batch), self.teacher.output(self.view, batch)
        real = real_tokens(batch.views[self.view], self.tokens, batch)
        total_R: Any = 0.0
        if self.settings.hidden_states:
            total_R = self.settings.hidden_states * matching.hidden(own, other, real)
        if self.settings.attentions:
            total_R = total_R + self.settings.attentions * matching.attention(own, other, real)
        return total_R


def by_sequence(batch: Batch) -> torch.Tensor:
    """The share that each sequence has in its row: (R,)."""
    counts = torch.tensor(batch.num_sequences or [1] * len(batch.row_ids))
    return (1 / counts).repeat_interleave(counts)

"""What is learnt from a teacher, added up: its answers from the cache, its layers from a run beside the student's.

Legend: N rows, B rows of a batch, C classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from llmtune.core.parts import Parts
from llmtune.core.protocols import Views
from llmtune.core.schedules import weight_schedule
from llmtune.core.types import Batch, Loss
from llmtune.objective.layer_pairs import layer_pairs, num_layers
from llmtune.objective.matching import Matching, teacher_output
from llmtune.objective.soft_targets import distance_by_row, num_items
from llmtune.objective.teacher import Teacher, label_order, same_words
from llmtune.objective.teacher_answers import stored_logits

ANSWERS = "distillation/logits"
"""name among a batch's targets of what the teacher said"""


def distillation_loss(settings: Any, teacher: Teacher, parts: Parts) -> DistillationLoss:
    """The objective; the teacher is opened only for what the cache doesn't hold."""
    task, plugins = parts.task, parts.config.run.plugins
    open_teacher = functools.cache(lambda: teacher.open(plugins, attentions=bool(settings.attentions)))
    logits_NC, order = None, None
    if settings.answers:
        if not same_words(teacher, parts.token_table):
            parts.console.say(f"the teacher {teacher.given} has another vocabulary: it reads the texts by its own")
        logits_NC = stored_logits(teacher, open_teacher, parts)
        order = None if task.problem_type == "regression" else label_order(teacher, task)
    matching, run = None, None
    if settings.wants:
        own, other = parts.network.config, teacher.config
        pairs = layer_pairs(settings.layers, num_layers(own), num_layers(other))
        matching = Matching(
            pairs, student_width=own.hidden_size, teacher_width=other.hidden_size, seed=parts.config.seed
        )
        run = open_teacher()
    weight = weight_schedule(settings.weight, parts.num_steps)
    return DistillationLoss(weight, settings, task.problem_type, (logits_NC, order), matching, run)


class DistillationLoss(nn.Module):
    """answers T^2 KL(teacher || student) + hidden_states d(hidden states) + attentions d(attention), by row."""

    name = "distillation"
    feed = "task"

    def __init__(
        self, weight: Callable[[int], float], settings: Any, problem_type: str,
        answers: tuple[np.ndarray | None, list[int] | None], matching: Matching | None, teacher: Any,
    ):  # fmt: skip
        super().__init__()
        self.weight = weight
        self.settings = settings
        self.problem_type = problem_type
        self.logits_NC, self.order = answers
        self.matching = matching
        self.wants = settings.wants
        self._teacher = (teacher,)  # held, not registered: it is not trained, and no checkpoint has it

    def prepare(self, batch: Batch) -> None:
        if self.logits_NC is not None:
            logits_BC = torch.from_numpy(self.logits_NC[batch.row_ids])
            batch.targets[ANSWERS] = logits_BC if self.order is None else logits_BC[:, self.order]

    def count(self, batch: Batch) -> float:
        return num_items(self.problem_type, batch.targets["label"])

    def loss(self, trunk: Views, batch: Batch) -> Loss:
        count = self.count(batch)
        total: Any = 0.0
        if self.settings.answers:
            apart_B = distance_by_row(
                self.problem_type, trunk.logits("clean", batch), batch.targets[ANSWERS], self.settings.temperature
            )
            total = self.settings.answers * apart_B.sum()
        if self.matching is not None:
            # as many items as the answers are a sum over
            total = total + self._layers(trunk, batch, self.matching).sum() * (count / len(batch.row_ids))
        return Loss(total, torch.tensor(count, device=total.device))

    def _layers(self, trunk: Views, batch: Batch, matching: Matching) -> torch.Tensor:
        """(B,) how far the layers are apart."""
        view, own = batch.views["clean"], trunk.output("clean", batch)
        (teacher,) = self._teacher
        other = teacher_output(teacher.to(view["input_ids"].device), view, self.wants)
        total_B: Any = 0.0
        if self.settings.hidden_states:
            total_B = self.settings.hidden_states * matching.hidden(own, other, view)
        if self.settings.attentions:
            total_B = total_B + self.settings.attentions * matching.attention(own, other, view)
        return total_B

"""The student answers as an average of itself, or as the model that it began as (arXiv 1703.01780, 1805.04770)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import between, one_of, positive, weight

if TYPE_CHECKING:
    from llmtune.objective.own_teacher import SelfDistillationLoss


@dataclass(frozen=True, kw_only=True)
class SelfDistillation:
    name: str
    weight: float | str
    teacher: str
    decay: float
    temperature: float
    starts_at_zero: ClassVar[bool] = True
    """the teacher is the model itself, until that has moved"""

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        one_of("teacher", self.teacher, ("ema", "start"))
        between("decay", self.decay, 0, 1)
        positive("temperature", self.temperature)

    def build(self, parts: Parts) -> SelfDistillationLoss:
        from llmtune.objective.own_teacher import SelfDistillationLoss

        return SelfDistillationLoss(self, parts)

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError where the task has no answers to compare, or the starting model has none to give."""
        from llmtune.objective.teaching import no_answers

        why = no_answers(prospect.config, prospect.task)
        if why is not None:
            raise ConfigError(
                Fault("objective.self_distillation", f"no answers can be compared: {why[0]}", "tasks with a label, "
                      "several labels or a number a row, a tag a word, or words to be written",
                      why[1] or "type objective=[supervised]")
            )  # fmt: skip
        if self.teacher == "start":
            self._check_start(prospect)

    def _check_start(self, prospect: Prospect) -> None:
        from llmtune.objective.teacher import find_teacher, label_order
        from llmtune.objective.teaching import answer_faults

        where, path = "objective.self_distillation.teacher", prospect.config.model.path
        fix = "type objective.self_distillation.teacher=ema"
        if path is None:
            raise ConfigError(Fault(where, "start, but the model starts at random", "a trained model", fix))
        start = find_teacher(path, "model.path", prospect.config.run.plugins)
        trained = not answer_faults(start, prospect, where)
        labels = getattr(prospect.task, "labels", None)
        if not trained or (labels and label_order(start, prospect.task) != list(range(len(labels.names)))):
            what = "classifier for these labels in this order" if labels else "head for these answers"
            raise ConfigError(
                Fault(where, f"start, but {path} has no {what}", "a model.path that was trained for this task", fix)
            )

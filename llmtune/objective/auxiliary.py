"""Other tasks beside the task: own rows, own head, one backbone (as MT-DNN, arXiv 1901.11504)."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from llmtune.core.errors import ConfigError, Fault, ModelError, UserError
from llmtune.core.parts import FeedWanted, Parts, Prospect
from llmtune.core.ranges import one_of, weight
from llmtune.core.schedules import weight_schedule
from llmtune.objective.auxiliary_tasks import WHERE, check_tasks, data_of, task_of, tasks_of
from llmtune.objective.supervised import Supervised


@dataclass(frozen=True, kw_only=True)
class Auxiliary:
    name: str
    weight: float | str
    tasks: dict[str, Any] | str
    best_by: str
    PREFIX: ClassVar[str] = "auxiliary/"

    def __post_init__(self) -> None:
        weight("weight", self.weight)
        check_tasks(self.tasks)
        one_of("best_by", self.best_by, ("task", "mean"))

    @property
    def num_terms(self) -> int:
        return len(tasks_of(self.tasks))

    def feeds(self, config: Any) -> dict[str, FeedWanted]:
        """The rows of each task, whose reader is the task itself: it finds its labels in them."""
        return {
            f"{self.PREFIX}{name}": FeedWanted(
                data=data_of(name, given, config.data), where=f"{WHERE}.{name}",
                reader=_without_loss(name, task_of(name, given)),
            )
            for name, given in tasks_of(self.tasks, config.data).items()
        }  # fmt: skip

    def check(self, prospect: Prospect) -> None:
        """Raises ModelError where the model's family has no head for a task, ConfigError where a task can't stand
        beside another, or where scores of which some are to rise and some to fall would be averaged."""
        tasks = {name: prospect.feeds[f"{self.PREFIX}{name}"].reader for name in tasks_of(self.tasks)}
        faults, kind = [], ConfigError
        if self.best_by == "mean":
            faults += _mean_faults({prospect.config.task.name: prospect.task, **tasks})
        for name, task in tasks.items():
            found, why = _head_faults(name, task, prospect)
            faults, kind = [*faults, *found], why or kind
        if faults:
            raise kind(*faults)

    def build(self, parts: Parts) -> dict[str, Any]:
        """An objective for each task, named as its feed."""
        from llmtune.objective.head_loss import HeadLoss

        return {
            feed: HeadLoss(
                feed, weight_schedule(given.get("weight", self.weight), parts.num_steps), parts.network,
                parts.feeds[feed].reader, seed=parts.config.seed, source=parts.config.model,
            )
            for feed, given in ((f"{self.PREFIX}{name}", given) for name, given in tasks_of(self.tasks).items())
        }  # fmt: skip


def _without_loss(name: str, task: Any) -> Any:
    """The task. Raises ConfigError where its loss is not one of a head on a backbone that is shared."""
    kind, where = task.settings.kind, f"{WHERE}.{name}.kind"
    if hasattr(task, "run"):
        fix = "objective=[supervised,auxiliary,masked_lm] objective.masked_lm.rows=FILE (causal_lm for decoders)"
        raise ConfigError(Fault(where, f"{kind} reads plain texts, which is an objective and no task beside", "", fix))
    if getattr(task, "looks_before", False):
        fix = f"llmtune train task={kind}, on the model/ of this run if need be"
        raise ConfigError(Fault(where, f"{kind} asks the model that the run began with", "a task by itself", fix))
    if hasattr(task, "complete"):
        given = f"{kind} puts more into a batch than columns of rows hold (sound, or what an answer is)"
        raise ConfigError(Fault(where, given, "a task by itself", f"llmtune train task={kind}"))
    return task


def _head_faults(name: str, task: Any, prospect: Prospect) -> tuple[list[Fault | str], Any]:
    """What speaks against a task on this backbone, and of which kind it is."""
    from llmtune.model.language_head import language_kind
    from llmtune.model.task_head import task_head

    where, family = f"{WHERE}.{name}", prospect.model_config.model_type
    writes = getattr(task.model_class(), "kind", None)
    if writes is not None and language_kind(prospect.model_config) != writes:
        fits = getattr(task, "fits", "decoders write the next word, encoder-decoders a second text")
        return [Fault(where, f"{task.settings.kind} writes words, which {family} models don't", fits)], ModelError
    wanted = getattr(task, "new_tokens", ())
    wanted = wanted(prospect.tokenizer) if callable(wanted) else wanted
    new = [token for token in wanted if token not in prospect.tokenizer.all_special_tokens]
    if new:
        given = f"{task.settings.kind} needs tokens that the tokenizer does not know ({', '.join(new)})"
        return [Fault(where, given, "the run's own task may have such", f"type task={task.settings.kind}, and put "
                      "the other beside it")], ConfigError  # fmt: skip
    try:
        network = task_head(prospect.network, task, seed=None)
    except ValueError as error:
        given = f"no such head for {family} models, beside task={prospect.config.task.name}"
        return [Fault(where, given, str(error).split("\n")[0][:200])], ModelError
    if hasattr(task.settings, "check"):
        feed = prospect.feeds[f"{Auxiliary.PREFIX}{name}"]
        loss = {"supervised": Supervised(name="supervised", weight=1.0)}
        asked = dataclasses.replace(prospect.config, task=task.settings, objective=loss, data=feed.data)
        own = dataclasses.replace(prospect, config=asked, task=task, network=network, splits=feed.splits)
        try:
            task.settings.check(own)
        except UserError as error:
            return [re.sub(r"\btask\.(?=\w)", f"{where}.", str(fault)) for fault in error.faults], type(error)
    return [], None


def _mean_faults(tasks: dict[str, Any]) -> list[Fault | str]:
    """A fault where the mean of these tasks' metrics would be of some that are to rise and some that are to fall, or of
    some from 0 to 1 and some from 0 to 100, which alone would decide."""
    from llmtune.scoring.writing import METRICS

    where, fix = "objective.auxiliary.best_by", "objective.auxiliary.best_by=task, or another metric of a task"
    if len({task.mode for task in tasks.values()}) > 1:
        told = ", ".join(f"{name} {task.metric} ({task.mode})" for name, task in tasks.items())
        return [Fault(where, f"mean of {told}", "metrics that all rise, or all fall", fix)]
    scales = {name: "0 to 100" if task.metric in METRICS else "0 to 1" for name, task in tasks.items()}
    if len(set(scales.values())) > 1:
        told = ", ".join(f"{name} {task.metric} ({scales[name]})" for name, task in tasks.items())
        return [Fault(where, f"mean of {told}", "metrics of one scale", fix)]
    return []

"""Can this model teach that one? What it answers is held against the task, how it reads against the student's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtune.core.errors import Fault, UserError
from llmtune.core.parts import Prospect
from llmtune.objective.teacher import PROBLEMS, Teacher, label_order, same_words

OTHER_HEADS = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")


def no_answers(config: Any, task: Any) -> tuple[str, str] | None:
    """Why there are no answers of this task to learn from, and what to do; None: there are."""
    from llmtune.objective.token_answers import SHIPPED, objective_of_plain_text, plain_text_kind, token_answers

    if token_answers(config, task) is not None:
        return None
    kind = plain_text_kind(task)
    if kind is not None and not objective_of_plain_text(config, kind):
        return (f"in task={config.task.name} an objective hides the words that are answered, and it is not there",
                f"type objective=[{SHIPPED[kind]},...]")  # fmt: skip
    head = getattr(getattr(task, "settings", None), "head", "linear")
    if config.task.kind == "tagging" and head != "linear":
        what = "whole chains of tags" if head == "crf" else "spans"
        return f"task.head={head} scores {what}, which have no softmax over classes to soften", "type task.head=linear"
    problem = getattr(task, "problem_type", None)
    if problem in PROBLEMS:
        return None
    return f"task={config.task.name} has no answers by row or by token ({problem or 'it has no labels'})", ""


def answer_faults(teacher: Teacher, prospect: Prospect, where: str) -> list[Fault]:
    """Why a teacher can't answer for a task: it solves another kind of problem, knows other labels or words."""
    from llmtune.objective.token_answers import token_answers

    why = no_answers(prospect.config, prospect.task)
    if why is not None:
        return [Fault(where, f"there is no teaching these answers: {why[0]}", "tasks with a label, several labels or a "
                      "number a row, a tag a word, or words to be written", why[1])]  # fmt: skip
    answers = token_answers(prospect.config, prospect.task)
    if answers is None:
        return strange_answers(teacher, prospect.task, where) or _unread(teacher, prospect.task, where)
    if answers.of_words:
        return _strange_words(teacher, prospect, where, str(answers.kind))
    return _strange_tags(teacher, prospect.task, where)


def strange_answers(teacher: Teacher, task: Any, where: str) -> list[Fault]:
    """The same for tasks with a label, several labels or a number a row."""
    problem = getattr(task, "problem_type", None)
    if teacher.problem_type not in (problem, None):
        return [Fault(where, f"{teacher.given} was trained for {teacher.problem_type}, this task is {problem}",
                      "a teacher of this task")]  # fmt: skip
    if teacher.place is None and not _has_head(teacher, "SequenceClassification"):
        return [Fault(where, f"{teacher.given} is no classifier ({_heads(teacher)})",
                      "a model that was trained for this task")]  # fmt: skip
    return [] if problem == "regression" else _strange_labels(teacher, task, where)


def _unread(teacher: Teacher, task: Any, where: str) -> list[Fault]:
    """Why it can't read the task's rows by its own vocabulary."""
    from llmtune.objective.teacher_answers import encoder_of

    try:
        encoder_of(teacher, task)
    except UserError as error:
        return [Fault(where, f"{teacher.given} can't read these rows: {error}", "a teacher of this task")]
    return []


def _strange_tags(teacher: Teacher, task: Any, where: str) -> list[Fault]:
    head = getattr(getattr(teacher.task, "settings", None), "head", None)
    known = head == "linear" if teacher.place is not None else _has_head(teacher, "TokenClassification")
    if not known:
        what = f"a tagger with task.head={head}" if head else _heads(teacher)
        return [Fault(where, f"{teacher.given} has no class for each token ({what})",
                      "a tagger that was trained with task.head=linear")]  # fmt: skip
    return _strange_labels(teacher, task, where)


def _strange_labels(teacher: Teacher, task: Any, where: str) -> list[Fault]:
    if label_order(teacher, task) is not None:
        return []
    return [Fault(where, f"{teacher.given} knows the labels {_some(teacher.labels)}; this task has "
                  f"{_some(task.labels.names)}", "the same labels, in any order",
                  "rows labelled alike, or data.label_names=[...] with the teacher's names")]  # fmt: skip


def _strange_words(teacher: Teacher, prospect: Prospect, where: str, kind: str) -> list[Fault]:
    from llmtune.model.language_head import language_kind

    kinds = {"masked": "fills in hidden words", "causal": "goes on from a text", "sequence": "is an encoder-decoder"}
    found = language_kind(teacher.config)
    if found != kind:
        what = f"{kinds[found]}" if found else "is no language model"
        return [Fault(where, f"{teacher.given} ({teacher.config.model_type}) {what}",
                      f"a model that {kinds[kind]}, as the student does")]  # fmt: skip
    names = getattr(teacher.config, "architectures", None) or ()
    if any(head in name for name in names for head in OTHER_HEADS):
        return [Fault(where, f"{teacher.given} was trained for something else than words ({_heads(teacher)})",
                      "a language model")]  # fmt: skip
    most = max(prospect.tokenizer.get_vocab().values())
    size = getattr(teacher.config.get_text_config(), "vocab_size", most + 1)
    if size <= most and same_words(teacher, prospect.tokenizer):
        return [Fault(where, f"{teacher.given} has {size} words, its tokenizer gives ids up to {most}")]
    return []


def reading_faults(teacher: Teacher, prospect: Prospect, where: str, words: str, fix: str) -> list[Fault]:
    """Why a teacher can't read the student's rows as they are encoded.

    Args:
        words: what is learnt of its reading them, for the message.
        fix: what to type to do without.
    """
    from llmtune.model.backbone import longest_row

    if "recording" in prospect.splits["train"].column_names:
        return [Fault(where, f"rows of task={prospect.config.task.name} are sound, which a teacher can't be shown", "",
                      "leave distillation out")]  # fmt: skip
    faults = []
    if not same_words(teacher, prospect.tokenizer):
        faults.append(Fault(where, f"{teacher.given} has another vocabulary, so its {words} are of other tokens",
                            "a teacher with the student's tokenizer", fix))  # fmt: skip
    most, longest = longest_row(teacher.config, teacher.tokenizer), longest_sequence(prospect.splits["train"])
    if longest > most:
        faults.append(Fault(where, f"rows have up to {longest} tokens, {teacher.given} reads {most}", "",
                            f"data.max_tokens={most}"))  # fmt: skip
    return faults


def longest_sequence(rows: Any) -> int:
    """Tokens of the longest sequence of encoded rows, of either side."""
    import pyarrow.compute as compute

    if "cuts" in rows.column_names:
        chunks = [chunk.flatten() for chunk in rows.data.column("cuts").chunks]
        return max((compute.max(chunk).as_py() or 0 for chunk in chunks), default=0)
    sides = [name for name in ("input_ids", "decoder_input_ids") if name in rows.column_names]
    if not sides:  # blocks of a token file
        return int(max(rows["length"][:]))
    return max(compute.max(compute.list_value_length(rows.data.column(name))).as_py() or 0 for name in sides)


def _has_head(teacher: Teacher, word: str) -> bool:
    return any(word in name for name in getattr(teacher.config, "architectures", None) or ())


def _heads(teacher: Teacher) -> str:
    return ", ".join(getattr(teacher.config, "architectures", None) or ()) or "of no known kind"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f", ... ({len(names)})" if len(names) > 6 else "")

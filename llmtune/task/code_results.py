"""Programs that a model wrote: do they parse, do they pass their tests; what `predict` and `evaluate` tell of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from llmtune.data.forms.programs import assembled, extracted, fault_of, normal, tests_of
from llmtune.scoring.pass_at_k import pass_at_k
from llmtune.scoring.sandbox import Program

if TYPE_CHECKING:
    from llmtune.scoring.predictions import Chunk, Predictions


WHERE = re.compile(r" in( line \d+ of the program)?$")


class Trial(NamedTuple):
    """One program that was written for a row."""

    completion: str
    """what the model wrote"""
    program: str
    """the whole program that it is, or is a part of"""
    is_cut: bool
    """had it come to no end after `max_new_tokens`?"""
    fault: str | None
    """why it is no Python"""
    passed: bool | None
    """None: the row has no tests, or they were not run"""
    reason: str
    """why it did not pass"""

    @property
    def verdict(self) -> str | None:
        return None if self.passed is None else "passed" if self.passed else f"failed: {self.reason}"

    @property
    def outcome(self) -> str:
        """Its verdict in a word."""
        if self.passed is None:
            return "parses" if self.fault is None else "does not parse"
        return "passed" if self.passed else WHERE.sub("", self.reason.partition(":")[0])[:40]


def trials(task: Any, chunk: Chunk) -> list[list[Trial] | None]:
    """For each row what was written and how it did; None where nothing was."""
    columns, empty = chunk.columns, [None] * len(chunk)
    written = task.written(chunk)
    found: list[list[Trial] | None] = []
    for answers, prompt, entry in zip(written, columns["prompt"], columns.get("entry_point", empty)):
        if answers is None:
            found.append(None)
            continue
        row = []
        for text, is_cut in answers:
            program = assembled(prompt, text, task.settings.stop, entry)
            fault = fault_of(program) if text.strip() else "nothing was written"
            row.append(Trial(text, program, is_cut, fault, None, ""))
        found.append(row)
    return _tried(task, found, chunk)


def _tried(task: Any, found: list[list[Trial] | None], chunk: Chunk) -> list[list[Trial] | None]:
    """The same with verdicts, where rows have tests and programs may be run."""
    empty = [None] * len(chunk)
    tests = [tests_of(kept) for kept in chunk.columns.get("tests", empty)]
    entries = chunk.columns.get("entry_point", empty)
    programs = [
        Program(trial.program, tests[row] or "", entries[row])
        for row, own in enumerate(found) if tests[row] for trial in own or ()
    ]  # fmt: skip
    verdicts = task.trials.verdicts(programs)
    if verdicts is None:
        return found
    told = iter(verdicts)
    return [
        own if own is None or not tests[row] else
        [trial._replace(passed=passed, reason=reason) for trial, (passed, reason) in zip(own, told)]
        for row, own in enumerate(found)
    ]  # fmt: skip


def score(task: Any, predictions: Predictions) -> dict[str, float]:
    """`syntax_rate` and `unfinished`, shares of all that was written; `pass@k`, means over the rows with tests; token
    scores of the rows whose answer is known."""
    programs = parsed = unfinished = tested = 0
    sums = dict.fromkeys(task.settings.pass_at, 0.0)
    for chunk in predictions.chunks():
        for own in filter(None, trials(task, chunk)):
            programs, parsed = programs + len(own), parsed + sum(trial.fault is None for trial in own)
            unfinished += sum(trial.is_cut for trial in own)
            if own[0].passed is not None:
                tested += 1
                for k in sums:
                    sums[k] += pass_at_k(len(own), sum(bool(trial.passed) for trial in own), k)
    told: dict[str, float] = task.writing.token_scores(predictions)
    if programs:
        told |= {"syntax_rate": parsed / programs, "unfinished": unfinished / programs}
    if tested:
        told |= {f"pass@{k}": total / tested for k, total in sums.items()}
    return told


def decoded(task: Any, chunk: Chunk) -> list[dict[str, Any]]:
    """For each row the whole program `code`, `verdict` and `parses`, the `completion` alone, whether it was `cut`; of
    several programs the first, and all of them as `samples`. None where nothing was written."""
    told: list[dict[str, Any]] = []
    for own in trials(task, chunk):
        if not own:
            told.append(dict.fromkeys(task.fields))
            continue
        first = own[0]
        found: dict[str, Any] = {
            "code": first.program, "verdict": first.verdict, "parses": first.fault is None,
            "completion": first.completion, "cut": first.is_cut,
            "samples": [{"code": trial.program, "verdict": trial.verdict} for trial in own],
        }  # fmt: skip
        told.append({name: found[name] for name in task.fields})
    return told


def judge(task: Any, predictions: Predictions, num_worst: int) -> dict[str, Any]:
    """`worst`: rows of which no program passed, or where none is tested none parses; a table of what came out how
    often; `sandbox`: in what the programs ran."""
    outcomes: Counter[str] = Counter()
    failed: list[int] = []
    for chunk in predictions.chunks():
        for place, own in enumerate(trials(task, chunk)):
            outcomes.update(trial.outcome for trial in own or ())
            if own and not any(_is_good(trial) for trial in own) and len(failed) < num_worst:
                failed.append(chunk.start + place)
    report: dict[str, Any] = {"worst": list(_worst(task, predictions, failed))}
    if outcomes:
        rows = [[name, count] for name, count in outcomes.most_common()]
        report["tables"] = [{"columns": ["outcome", "programs"], "rows": rows}]
    return report | task.trials.protections()


def _is_good(trial: Trial) -> bool:
    return trial.fault is None if trial.passed is None else trial.passed


def _worst(task: Any, predictions: Predictions, failed: list[int]) -> Iterator[dict[str, Any]]:
    if not failed:
        return
    chunk = predictions.some(failed)
    golds = chunk.columns.get("response", [None] * len(chunk))
    for place, own in enumerate(trials(task, chunk)):
        gold = golds[place]
        first = (own or [Trial("", "", False, None, None, "")])[0]
        yield {
            "file": chunk.columns["file"][place], "line": chunk.columns["line"][place],
            "gold": extracted(normal(json.loads(gold)[0])) if gold else None, "predicted": first.program,
            "reason": first.reason or first.fault, "prompt": chunk.columns["prompt"][place],
        }  # fmt: skip

"""What a finished run leaves: the best model proven to reopen, scores on test, predictions, result.json."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmtune.core.errors import LlmtuneError, Stopped
from llmtune.inference import verify
from llmtune.inference.beside import models_beside, scores_beside
from llmtune.inference.model_folder import make_card, write_model
from llmtune.preflight import Prepared
from llmtune.reading import plain_texts
from llmtune.run.console import Console
from llmtune.run.files import write_json, written_aside
from llmtune.run.rundir import RunDir

PROBE_ROWS = 6


def finish(trainer: Any, prepared: Prepared, run: RunDir, console: Console) -> dict[str, Any]:
    """Load the best weights, score test, write model/ and all results; result.json's content (on rank 0).

    Raises:
        Stopped: a signal came; the same command with resume=auto comes here again.
        LlmtuneError: `model/` does not give the logits of the trained model when it is opened again, or a frozen
            tensor is not what it was when the run began.
    """
    from llmtune.data.batches.feed import EvaluationFeed, table_of
    from llmtune.training.evaluation import Scored

    state, machine, task = trainer.state, trainer.machine, prepared.task
    kept = _load_best(trainer, run)
    scores = kept["scores"] if kept else None
    test = validation = None
    if scores is not None and _validated(trainer).is_sampled:  # it was of some rows: enough to choose the best step
        validation = _validation(trainer)
        scores = validation.scores
    # what is tuned on validation, before test is looked at
    if scores is not None and hasattr(task, "settle") and task.settle(scores):
        validation = _validation(trainer)
        scores = {**scores, **task.score(validation.predictions)}
    if "test" in prepared.splits:
        table = table_of(prepared.splits["test"], prepared.tokenizer, task)
        trainer.prefix.add("test", table)
        feed = EvaluationFeed(table, task.collate_targets, trainer.feed.micro_tokens, machine.rank, machine.world)
        test = _evaluated(trainer, Scored(trainer.composite.model, feed, task), trainer.composite.trunk.evaluated)
    if validation is None and (test is None or scores is None):
        validation = _validation(trainer)
    forgetting = _forgetting(trainer, prepared, run, console)
    trainer.prefix.close()
    beside, tested = scores_beside(
        trainer, prepared, kept["beside"] if kept else None, functools.partial(_evaluated, trainer)
    )
    if not machine.is_main:
        return {}
    num_frozen = trainer.freezing.untouched.prove()
    if num_frozen:
        console.say(f"{num_frozen} frozen tensors are bit for bit what they were when the run began")
    card = make_card(
        prepared.config, task, max_tokens=prepared.max_tokens, columns=_columns(prepared), metric=task.metric,
        score=state.best_score, step=_kept_step(state), base=prepared.config.model.path,
    )  # fmt: skip
    with _proof(trainer, prepared, run, card, console):
        shown = test or validation
        if shown is not None:
            write_predictions(run.predictions, shown.predictions, task)
        result = _result(trainer, prepared, scores or (validation.scores if validation else None), test)
        result["forgetting"] = forgetting
        result |= {"frozen_tensors": num_frozen, "frozen_unchanged": True if num_frozen else None}
        if getattr(prepared.task, "signatures", None):
            result["signatures"] = prepared.task.signatures
        for key, others in (("auxiliary", beside), ("auxiliary_test", tested)):
            if others:
                result[key] = {name.rpartition("/")[2]: found for name, found in others.items()}
        for key, others in (("validation", beside), ("test", tested)):
            if result[key]:  # with the mean of all tasks, where that decides
                result[key] = trainer.deciding.told(result[key], others)
    write_json(run.result, result)
    return result


def _forgetting(trainer: Any, prepared: Prepared, run: RunDir, console: Console) -> dict[str, Any] | None:
    """What the kept weights make of general text, beside what those before the first step made of it."""
    from llmtune.training.forgetting import told

    if trainer.forgetting is None:
        return None
    after = trainer.forgetting.measure(trainer.machine, lambda: bool(trainer.should_stop()))
    if after is None:
        raise _stopped(trainer)
    if not trainer.machine.is_main:
        return None
    records = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    found = told(records, after, prepared.config.train.watch_forgetting)
    console.say(f"general text ({found['file']}): loss {found['before']:.4f} before, {found['after']:.4f} after, "
                f"{found['worst']:.4f} at worst")  # fmt: skip
    return found


def _load_best(trainer: Any, run: RunDir) -> dict[str, Any] | None:
    """Put the best model's weights into the network; `scores` and those `beside`, if its metric was ever defined."""
    from llmtune.run.checkpoint import CheckpointStore

    step = trainer.state.best_step
    if step is None:
        if trainer.average is not None:
            trainer.load_weights(trainer.kept_weights())
        return None
    best = CheckpointStore(run.checkpoints, keep=1).best(step)
    trainer.load_best(best)
    return best.state


def _kept_step(state: Any) -> int:
    """The step of the weights that model/ gets: the best one, or the last where none was best."""
    return state.step if state.best_step is None else state.best_step


def _validation(trainer: Any) -> Any:
    """The newest evaluation if it is that of the kept weights, and of all rows; else the rows, if any, are scored
    again."""
    if trainer.validation is None:
        return None
    rows = _validated(trainer)
    is_kept = trainer.evaluation is not None and trainer.state.evaluated_step == _kept_step(trainer.state)
    if is_kept and not rows.is_sampled:
        return trainer.evaluation
    return _evaluated(trainer, rows, trainer.composite.trunk.evaluated)


def _validated(trainer: Any) -> Any:
    """The rows of validation with model and task."""
    from llmtune.training.evaluation import Scored

    return Scored(trainer.composite.model, trainer.validation, trainer.task)


def _evaluated(trainer: Any, one: Any, forward: Any = None) -> Any:
    from llmtune.training.evaluation import evaluate

    done = evaluate(one.model, one.feed, trainer.machine, one.task, lambda: bool(trainer.should_stop()), forward)
    if done is None:
        raise _stopped(trainer)
    return done


def _stopped(trainer: Any) -> Stopped:
    name = trainer.should_stop() or "a signal"
    return Stopped(f"stopped by {name} after training; everything is saved, resume=auto does the rest")


@contextlib.contextmanager
def _proof(trainer: Any, prepared: Prepared, run: RunDir, card: dict[str, Any], console: Console) -> Iterator[None]:
    """Write model/; prove, while the caller goes on, that it opens elsewhere as what was trained."""
    from llmtune.model.own_head import OwnHead

    how = prepared.config.train.verify_model
    if trainer.should_stop():
        raise _stopped(trainer)
    adapter = prepared.config.adapter.build(None)
    if hasattr(adapter, "moved"):
        adapter.moved = frozenset(name.removeprefix("model.") for name in trainer.freezing.moved_base())
    model = trainer.composite.model
    if hasattr(adapter, "unquantised"):
        model = adapter.unquantised(model)
    model = model.to("cpu").eval()
    if not hasattr(adapter, "unquantised"):
        model = model.float()  # what was held in bf16
    beside = models_beside(trainer, prepared, card)
    expected = _expected(model, prepared, card, adapter) if how != "off" else {}
    if expected:
        expected["beside"] = {
            name: verify.probe(
                other, prepared.tokenizer, *_few_texts(prepared.feeds[name].splits, prepared.feeds[name].reader),
                prepared.max_tokens,
            )
            for name, (other, _) in beside.items()
        }  # fmt: skip
    write_model(run.model, model, prepared.tokenizer, card, adapter, beside)
    if how == "off":
        yield
        return
    process = verify.start(run.model, expected) if how == "process" else None
    faults: list[str] | None = None
    try:
        yield
    finally:
        if process is not None:
            faults = verify.outcome(process, run.model, trainer.should_stop)
    if process is None:
        faults = verify.compare(run.model, expected)
    if faults is None:
        raise _stopped(trainer)
    if faults:
        raise LlmtuneError("model/ is not the trained model when it is opened again:", *faults)
    console.say(
        f"model/ opens in {'a new process' if how == 'process' else 'this process'} with equal logits and labels "
        f"({len(expected['rows'])} rows)"
    )
    own_head = isinstance(model, OwnHead) and any(
        not name.startswith(model.base_model_prefix) for name, _ in model.named_parameters()
    )
    if own_head:
        console.say("its head is llmtune's own: transformers opens the backbone alone, `llmtune predict` all of it")


def _expected(model: Any, prepared: Prepared, card: dict[str, Any], adapter: Any) -> dict[str, Any]:
    """What the trained model gives for a few rows, before its adapter is folded into it."""
    base = None
    if adapter.stands_alone and card["base"]:
        base = {"path": str(Path(card["base"]).expanduser()), "revision": prepared.config.model.revision}
    task = prepared.task
    if hasattr(task, "probe_sounds"):
        sounds, start = task.probe_sounds(_few_rows(prepared.splits))
        return verify.probe_sounds(model, task.hearing.extractor, sounds, start, base)
    texts = _few_texts(prepared.splits, task)
    return verify.probe(model, prepared.tokenizer, *texts, prepared.max_tokens, base)


def _few_texts(splits: Mapping[str, Any], task: Any) -> tuple[list[str], list[str | None] | None]:
    """Texts of a few rows of the validation split, else of train, and their second texts where rows have two."""
    return plain_texts(task, _few_rows(splits))


def _few_rows(splits: Mapping[str, Any]) -> dict[str, list[Any]]:
    rows = splits.get("validation", splits["train"])
    return rows.select(range(min(PROBE_ROWS, len(rows)))).with_format(None)[:]


def _columns(prepared: Prepared) -> dict[str, Any]:
    """Role -> the column of the training file it was read from."""
    return prepared.report["splits"]["train"]["found"][0]["columns"]


def write_predictions(path: Path, predictions: Any, task: Any) -> None:
    """One JSON object a row: where it stands, what is known of it, and the prediction."""
    with written_aside(path) as file:
        for chunk in predictions.chunks():
            for row, predicted in enumerate(task.decode(chunk)):
                known = dict(_plain(task, name, values[row]) for name, values in chunk.columns.items())
                record = {name: known.pop(name) for name in ("file", "line")} | known
                record["predicted"] = predicted[task.fields[0]]
                record |= {name: predicted[name] for name in task.fields[1:]}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _plain(task: Any, name: str, value: Any) -> tuple[str, Any]:
    """Role and value of a column as the user gave it; a list of one text is that text."""
    role = next((role for role in task.roles if role.kept == name), None)
    if role is None or value is None or role.kind == "text":
        return name if role is None else role.name, value
    found = json.loads(value)
    return role.name, found[0] if role.kind == "texts" and len(found) == 1 else found


def _result(trainer: Any, prepared: Prepared, scores: Any, test: Any) -> dict[str, Any]:
    state = trainer.state
    trained = sum(row[2] for row in trainer.freezing.counts())
    return {
        "task": prepared.config.task.name,
        "status": "finished",
        "metric": trainer.deciding.metric,
        "mode": trainer.deciding.mode,
        "best": {"step": state.best_step, "score": state.best_score},
        "validation": scores,
        "test": test.scores if test is not None else None,
        "majority": _majority(prepared),
        "steps": state.step,
        "epochs": round(state.step / prepared.steps_per_epoch, 4),
        "ended_by": trainer.ended_by,
        "train_seconds": round(state.seconds, 3),
        "eval_seconds": round(state.eval_seconds, 3),
        "tokens_per_second": round(state.tokens_seen / max(state.seconds, 1e-9), 1),
        "padding_share": round(1 - state.tokens_seen / max(1, state.padded_tokens_seen), 4),
        "peak_memory_bytes": trainer.machine.peak_memory(),
        "trainable_parameters": trained,
        "parameters": sum(row[1] for row in trainer.freezing.counts()),
        "run_name": prepared.config.run.name,
        "seed": prepared.config.seed,
    }


def _majority(prepared: Prepared) -> float | None:
    """Accuracy on test (else validation) of always giving train's most frequent label."""
    if prepared.task.problem_type != "single_label":
        return None
    split = next((name for name in ("test", "validation") if name in prepared.splits), None)
    if split is None:
        return None
    train = np.bincount(prepared.splits["train"]["target"][:])
    return float((np.asarray(prepared.splits[split]["target"][:]) == train.argmax()).mean())

"""What a finished run leaves: the best model proven to reopen, scores on test, predictions, result.json."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llmtune.core.errors import LlmtuneError, Stopped
from llmtune.inference import verify
from llmtune.inference.model_folder import make_card, write_model
from llmtune.preflight import Prepared
from llmtune.run.console import Console
from llmtune.run.files import write_json, write_text
from llmtune.run.rundir import RunDir

PROBE_ROWS = 6


def finish(trainer: Any, prepared: Prepared, run: RunDir, console: Console) -> dict[str, Any]:
    """Load the best weights, score test, write model/ and all results; result.json's content (on rank 0).

    Raises:
        Stopped: a signal came; the same command with resume=auto comes here again.
        LlmtuneError: `model/` does not give the logits of the trained model when it is opened again, or a frozen
            tensor is not what it was when the run began.
    """
    from llmtune.data.feed import EvaluationFeed, TokenTable

    state, machine, task = trainer.state, trainer.machine, prepared.task
    scores = _load_best(trainer, run)
    test = validation = None
    if "test" in prepared.splits:
        table = TokenTable(prepared.splits["test"], pad_id=prepared.tokenizer.pad_token_id)
        feed = EvaluationFeed(table, task.collate_targets, trainer.feed.micro_tokens, machine.rank, machine.world)
        test = _evaluated(trainer, feed)
    if test is None or scores is None:
        validation = _validation(trainer)
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
            rows = prepared.splits["test" if test is not None else "validation"]
            write_predictions(run.predictions, rows, shown.logits_NC, task)
        result = _result(trainer, prepared, scores or (validation.scores if validation else None), test)
        result |= {"frozen_tensors": num_frozen, "frozen_unchanged": True if num_frozen else None}
    write_json(run.result, result)
    return result


def _load_best(trainer: Any, run: RunDir) -> dict[str, float] | None:
    """Put the best model's weights into the network; its validation scores, if its metric was ever defined."""
    from llmtune.run.checkpoint import CheckpointStore

    step = trainer.state.best_step
    if step is None:
        if trainer.average is not None:
            trainer.load_weights(trainer.kept_weights())
        return None
    best = CheckpointStore(run.checkpoints, keep=1).best(step)
    trainer.load_weights(best.tensors("model"))
    return best.state["scores"]


def _kept_step(state: Any) -> int:
    """The step of the weights that model/ gets: the best one, or the last where none was best."""
    return state.step if state.best_step is None else state.best_step


def _validation(trainer: Any) -> Any:
    """The newest evaluation if it is that of the kept weights; else the rows, if any, are scored again."""
    if trainer.validation is None:
        return None
    if trainer.evaluation is not None and trainer.state.evaluated_step == _kept_step(trainer.state):
        return trainer.evaluation
    return _evaluated(trainer, trainer.validation)


def _evaluated(trainer: Any, feed: Any) -> Any:
    from llmtune.training.evaluation import evaluate

    done = evaluate(
        trainer.composite.model, feed, trainer.machine, trainer.task, lambda: bool(trainer.should_stop())
    )  # fmt: skip
    if done is None:
        raise _stopped(trainer)
    return done


def _stopped(trainer: Any) -> Stopped:
    name = trainer.should_stop() or "a signal"
    return Stopped(f"stopped by {name} after training; everything is saved, resume=auto does the rest")


@contextlib.contextmanager
def _proof(trainer: Any, prepared: Prepared, run: RunDir, card: dict[str, Any], console: Console) -> Iterator[None]:
    """Write model/; prove, while the caller goes on, that it opens elsewhere as what was trained."""
    how = prepared.config.train.verify_model
    if trainer.should_stop():
        raise _stopped(trainer)
    adapter = prepared.config.adapter.build(None)
    model = trainer.composite.model
    if hasattr(adapter, "unquantised"):
        model = adapter.unquantised(model)
    model = model.to("cpu").eval()
    expected = _expected(model, prepared, card, adapter) if how != "off" else {}
    write_model(run.model, model, prepared.tokenizer, card, adapter)
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


def _expected(model: Any, prepared: Prepared, card: dict[str, Any], adapter: Any) -> dict[str, Any]:
    """What the trained model gives for a few rows, before its adapter is folded into it."""
    rows = prepared.splits.get("validation", prepared.splits["train"])
    rows = rows.select(range(min(PROBE_ROWS, len(rows))))
    texts = {name: rows[name][:] for name in ("text", "text_pair") if name in rows.column_names}
    base = None
    if adapter.stands_alone and card["base"]:
        path = str(Path(card["base"]).expanduser())
        base = {"pretrained_model_name_or_path": path, "revision": prepared.config.model.revision}
    return verify.probe(model, prepared.tokenizer, texts, prepared.max_tokens, base)


def _columns(prepared: Prepared) -> dict[str, Any]:
    """Role -> the column of the training file it was read from."""
    return prepared.report["splits"]["train"]["found"][0]["columns"]


def write_predictions(path: Path, rows: Any, logits_NC: np.ndarray, task: Any) -> None:
    """One JSON object a row: where it stands, its text, label and prediction."""
    lines = []
    decoded = task.decode(logits_NC)
    columns = [name for name in ("file", "line", "text", "text_pair", "label") if name in rows.column_names]
    for row, predicted in zip(rows.select_columns(columns), decoded):
        given = row.pop("label", None)
        record = {**row, "label": json.loads(given) if given is not None else None, "predicted": predicted.pop("label")}
        lines.append(json.dumps({**record, **predicted}, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def _result(trainer: Any, prepared: Prepared, scores: Any, test: Any) -> dict[str, Any]:
    state = trainer.state
    trained = sum(row[2] for row in trainer.freezing.counts())
    return {
        "task": prepared.config.task.name,
        "status": "finished",
        "metric": prepared.task.metric,
        "mode": prepared.task.mode,
        "best": {"step": state.best_step, "score": state.best_score},
        "validation": scores,
        "test": test.scores if test is not None else None,
        "majority": _majority(prepared),
        "steps": state.step,
        "epochs": round(state.step / prepared.order.steps_per_epoch, 4),
        "ended_by": trainer.ended_by,
        "train_seconds": round(state.seconds, 3),
        "eval_seconds": round(trainer.eval_seconds, 3),
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

"""What a finished run leaves: the best model proven to reopen, scores on test, predictions, result.json."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmtune.core.errors import LlmtuneError
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
        LlmtuneError: `model/` does not give the logits of the trained model when it is opened again.
    """
    from llmtune.data.feed import EvaluationFeed, TokenTable
    from llmtune.training.evaluation import evaluate

    state, machine, task = trainer.state, trainer.machine, prepared.task
    scores = _load_best(trainer, run)
    test = None
    if "test" in prepared.splits:
        table = TokenTable(prepared.splits["test"], pad_id=prepared.tokenizer.pad_token_id)
        feed = EvaluationFeed(table, task.collate_targets, trainer.feed.micro_tokens, machine.rank, machine.world)
        test = evaluate(trainer.composite.model, feed, machine, task)
    if not machine.is_main:
        return {}
    columns = _columns(prepared)
    card = make_card(
        prepared.config, task, max_tokens=prepared.max_tokens, columns=columns, metric=task.metric,
        score=state.best_score, step=state.best_step or state.step, base=prepared.config.model.path,
    )  # fmt: skip
    split = "test" if test is not None else "validation" if trainer.evaluation is not None else None
    with _proof(trainer.composite.model.to("cpu"), prepared, run, card, console):
        if split is not None:
            evaluation = test or _best_validation(trainer, scores)
            if evaluation is not None:
                write_predictions(run.predictions, prepared.splits[split], evaluation.logits_NC, task)
        result = _result(trainer, prepared, scores, test)
    write_json(run.result, result)
    write_json(run.data_report, prepared.report)
    return result


def _load_best(trainer: Any, run: RunDir) -> dict[str, float] | None:
    """Put the best model's weights into the network; its validation scores, if there was an evaluation."""
    from llmtune.run.checkpoint import CheckpointStore

    step = trainer.state.best_step
    if step is None:
        if trainer.average is not None:
            trainer.load_weights(dict(trainer.average.average))
        return None
    best = CheckpointStore(run.checkpoints, keep=1).best(step)
    trainer.load_weights(best.tensors("model"))
    return best.state["scores"]


def _best_validation(trainer: Any, scores: Mapping[str, float] | None) -> Any:
    """The newest evaluation if it is that of the best model; else the rows are scored again."""
    from llmtune.training.evaluation import evaluate

    if trainer.evaluation is not None and trainer.state.best_step == trainer.state.evaluated_step:
        return trainer.evaluation
    if trainer.validation is None or trainer.machine.world > 1:
        return None
    model = trainer.composite.model.to(trainer.machine.device)
    return evaluate(model, trainer.validation, trainer.machine, trainer.task)


@contextlib.contextmanager
def _proof(model: Any, prepared: Prepared, run: RunDir, card: dict[str, Any], console: Console) -> Iterator[None]:
    """Write model/; prove, while the caller goes on, that it opens elsewhere as what was trained."""
    how = prepared.config.train.verify_model
    model.eval()
    write_model(run.model, model, prepared.tokenizer, card)
    rows = prepared.splits.get("validation", prepared.splits["train"])
    rows = rows.select(range(min(PROBE_ROWS, len(rows))))
    texts = {name: rows[name][:] for name in ("text", "text_pair") if name in rows.column_names}
    if how == "off":
        yield
        return
    expected = verify.probe(model, prepared.tokenizer, texts, prepared.max_tokens)
    process = verify.start(run.model, expected) if how == "process" else None
    try:
        yield
    finally:
        faults = verify.outcome(process, run.model) if process else verify.compare(run.model, expected)
    if faults:
        raise LlmtuneError("model/ is not the trained model when it is opened again:", *faults)
    console.say(
        f"model/ opens in {'a new process' if how == 'process' else 'this process'} with equal logits and labels "
        f"({len(expected['rows'])} rows)"
    )


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

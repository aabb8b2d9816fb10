"""`llmtune train`: check everything, make the run folder, train, prove what was left."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from llmtune.config.compose import run_job
from llmtune.config.secrets import redacted_line
from llmtune.config.settings import Config
from llmtune.core.errors import Diverged, Stopped
from llmtune.run import rundir
from llmtune.run.console import Console
from llmtune.run.files import read_json, write_json
from llmtune.run.rundir import RunDir
from llmtune.run.signals import StopRequest


def main(argv: list[str]) -> int:
    return run_job("train", [*stored_config(argv), *argv], train)


def stored_config(argv: list[str]) -> list[str]:
    """`resume=DIR` starts from the config in DIR, as a recipe; what is typed besides still wins."""
    named = [word.partition("=")[2] for word in argv if word.startswith("resume=")]
    stored = Path(named[-1]).expanduser() / "config.yaml" if named else None
    return [str(stored)] if stored and stored.is_file() else []


def train(config: Config, cfg: Any, typed: list[str]) -> int:
    from llmtune.data.report import summary
    from llmtune.preflight import preflight
    from llmtune.reporting.words import ending_lines, plan_lines

    stop = StopRequest().listen()
    console = Console()
    plain: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    run = rundir.to_resume(config, plain, console.say)
    if run is not None and run.status == "finished" and not rundir.asks_for_more(run, plain):
        console.say(f"{run.path} is finished already; a larger train.epochs would go on with it")
        return 0
    prepared = preflight(config, console, stop, run=run.path if run is not None else None)
    for line in [*summary(prepared.report), *plan_lines(prepared)]:
        console.say(line)
    run = _open(run, prepared, plain, [redacted_line(line) for line in typed])
    console.attach(run.log)
    console.say(f"run folder: {run.path}")
    try:
        if config.hardware.processes > 1:
            result = run_processes(run, config.hardware.processes, stop)
        else:
            result = run_training(prepared, run, console, stop)
    except BaseException as error:
        with contextlib.suppress(OSError):  # on a full disk what went wrong matters, and not this
            run.update(status=status_of(error), ended_with=str(error) or type(error).__name__)
            console.note(f"{type(error).__name__}: {error}")
        raise
    run.update(status="finished", ended_with=result["ended_by"])
    for line in ending_lines(run.path, result, _columns(prepared), getattr(prepared.task, "use", None)):
        console.say(line)
    return 0


def _open(run: RunDir | None, prepared: Any, plain: dict[str, Any], typed: list[str]) -> RunDir:
    """The folder of this run, new unless `run` is given, held by this process, with what is known before training."""
    config = prepared.config
    start = rundir.describe_start(["llmtune", "train", *typed])
    if run is None:
        run = rundir.create(config.task.name, config.run.dir)
        run.lock()
        run.write_overrides(typed)
        run.update(**start)
    else:
        run.lock()
        run.update(last_start=start)
    run.write_config(plain)  # a resumed run may be longer, or on other hardware
    write_json(run.data_report, prepared.report)
    run.update(
        status="running", name=config.run.name, seed=config.seed, parameters=prepared.parameters,
        fingerprints=prepared.fingerprints, process=os.getpid(),
    )  # fmt: skip
    return run


def _columns(prepared: Any) -> list[str]:
    """Columns of the training file that a file to predict needs too."""
    found = prepared.report["splits"]["train"]["found"][0]["columns"]
    known = {role.name for role in prepared.task.roles if role.known_before and not role.sparse}
    return [str(column) for role, column in found.items() if role in known]


def run_training(prepared: Any, run: RunDir, console: Console, stop: StopRequest) -> dict[str, Any]:
    """Make the trainer, go on from the newest good checkpoint if there is one, train, finish."""
    from llmtune.build import make_trainer
    from llmtune.finish import finish
    from llmtune.run.checkpoint import CheckpointStore

    trainer = make_trainer(prepared, run, console, stop)
    freezing, groups = trainer.freezing, trainer.stepper.optimizer.param_groups
    run_facts = {
        "hardware": trainer.machine.describe(), "trainable": freezing.table(groups, trainer.peak_lr),
        "trains_when": freezing.timeline(),
    }  # fmt: skip
    if trainer.machine.is_main:
        run.update(**run_facts)
    checkpoint = CheckpointStore(run.checkpoints, keep=1).newest_good(console.say) if run.checkpoints.exists() else None
    trainer.resume(checkpoint)
    if checkpoint is not None:
        console.say(f"goes on after step {trainer.state.step}")
    for watcher in trainer.watchers:
        watcher.on_plan({"num_steps": prepared.num_steps, "step": trainer.state.step})
    trainer.fit()
    return finish(trainer, prepared, run, console)


def run_processes(run: RunDir, processes: int, stop: StopRequest) -> dict[str, Any]:
    """Train in several processes; what the first one left as result."""
    from llmtune.commands import worker

    worker.run_all(run, processes, stop)
    return read_json(run.result)


def status_of(error: BaseException) -> str:
    if isinstance(error, (Stopped, KeyboardInterrupt)):
        return "stopped"
    return "diverged" if isinstance(error, Diverged) else "failed"

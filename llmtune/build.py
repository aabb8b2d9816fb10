"""The one file that knows the order of making: model, objectives, optimizer, feeds, loop."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from llmtune.core.clock import parse_duration, period_steps
from llmtune.core.parts import Parts
from llmtune.core.schedules import lr_schedule
from llmtune.core.types import TrainState
from llmtune.preflight import Prepared
from llmtune.run.console import Console
from llmtune.run.rundir import RunDir
from llmtune.run.signals import StopRequest

if TYPE_CHECKING:
    from llmtune.data.feed import EvaluationFeed, TrainFeed
    from llmtune.hardware.machine import Machine
    from llmtune.training.trainer import Trainer


def make_trainer(prepared: Prepared, run: RunDir, console: Console, stop: StopRequest) -> Trainer:
    """Model, optimizer and loop for a run folder, wrapped for the machine, at step 0."""
    from llmtune.hardware.machine import Machine
    from llmtune.model.backbone import load_model
    from llmtune.model.composite import Composite
    from llmtune.model.layers import LayerMap
    from llmtune.reporting.progress import make_watchers
    from llmtune.reporting.words import starting_lines
    from llmtune.run.checkpoint import CheckpointStore
    from llmtune.run.metrics_log import MetricsLog
    from llmtune.training.ema import make_average
    from llmtune.training.freezing import Freezing
    from llmtune.training.step import Stepper
    from llmtune.training.trainer import Clocks, Trainer
    from llmtune.training.trial import try_worst

    config, task = prepared.config, prepared.task
    train = config.train
    machine = Machine(config.hardware)
    loaded = load_model(
        config.model, task.model_class(), prepared.tokenizer, seed=config.seed,
        gradient_checkpointing=train.gradient_checkpointing, **task.config_values(),
    )  # fmt: skip
    layers = LayerMap.of(loaded.model, loaded.model.base_model_prefix)
    parts = Parts(
        task=task, network=loaded.model, layers=layers, token_table=prepared.tokenizer, options=train,
        num_steps=prepared.num_steps, steps_per_epoch=prepared.order.steps_per_epoch, peak_lr=prepared.peak_lr,
    )  # fmt: skip
    objectives = {name: settings.build(parts) for name, settings in config.objective.items()}
    composite = Composite(loaded.model, objectives).to(machine.device)
    layers = LayerMap.of(composite, f"model.{loaded.model.base_model_prefix}")
    parts = dataclasses.replace(parts, network=composite, layers=layers)
    optimizer = config.optimizer.build(parts)
    policy = config.freeze_policy.build(parts)

    feed, validation = _feeds(prepared, machine)
    freezing = Freezing(composite, layers, policy)
    freezing.apply(0)
    if machine.world == 1:  # several processes agree on a stop in the loop
        stop.check("loading the model")
    trial = try_worst(composite, optimizer, feed, validation, machine, adjust=feed.micro_rows is None)
    for line in starting_lines(prepared, loaded, freezing, trial, machine):
        console.say(line)
    if config.hardware.compile:
        composite.trunk.compile()
    if policy.changes and machine.world > 1:
        # a parameter that is frozen when DDP wraps is never synchronised later
        for parameter in composite.parameters():
            parameter.requires_grad_(True)
        freezing.trainable = None
    module, wrapped = machine.prepare(composite, optimizer, find_unused=policy.changes or bool(trial.without_gradient))
    if machine.is_main:
        store = CheckpointStore(run.checkpoints, keep=train.keep)
        store.open()
    per_epoch = prepared.order.steps_per_epoch
    return Trainer(
        composite=composite, module=module,
        stepper=Stepper(module, wrapped, machine, objectives, config.seed, train.clip_norm),
        freezing=freezing, schedule=lr_schedule(config.optimizer, prepared.num_steps), peak_lr=prepared.peak_lr,
        task=task, feed=feed, validation=validation,
        clocks=Clocks(
            num_steps=prepared.num_steps, steps_per_epoch=per_epoch,
            eval_every=period_steps(train.eval_every, per_epoch), save_every=period_steps(train.save_every, per_epoch),
            log_every=train.log_every, max_seconds=parse_duration("train.max_time", train.max_time),
            patience=train.patience, min_gain=train.min_gain,
        ),
        machine=machine, store=store if machine.is_main else None,
        metrics=MetricsLog(run.metrics) if machine.is_main else None,
        speed=MetricsLog(run.speed) if machine.is_main else None,
        average=make_average(composite, optimizer, train, prepared.num_steps),
        parts={name: part for name, part in objectives.items() if hasattr(part, "load_state")},
        fingerprints=prepared.fingerprints, should_stop=lambda: stop.name,
        watchers=make_watchers(console) if machine.is_main else [], state=TrainState(),
    )  # fmt: skip


def _feeds(prepared: Prepared, machine: Machine) -> tuple[TrainFeed, EvaluationFeed | None]:
    """This process's training batches, and its validation batches if there are such rows."""
    from llmtune.data.feed import EvaluationFeed, TokenTable, TrainFeed

    train, collate = prepared.config.train, prepared.task.collate_targets
    tables = {
        split: TokenTable(rows, pad_id=prepared.tokenizer.pad_token_id) for split, rows in prepared.splits.items()
    }
    micro_rows = None if isinstance(train.micro_rows, str) else train.micro_rows
    place = (machine.rank, machine.world)
    feed = TrainFeed(tables["train"], prepared.order, collate, train.micro_tokens, micro_rows, *place)
    if "validation" not in tables:
        return feed, None
    return feed, EvaluationFeed(tables["validation"], collate, train.micro_tokens, *place)

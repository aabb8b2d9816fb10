"""The one file that knows the order of making: model, objectives, optimizer, feeds, loop."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from llmtune.core.clock import parse_duration, period_steps
from llmtune.core.parts import Parts
from llmtune.core.schedules import lr_schedule
from llmtune.core.types import TrainState
from llmtune.plan import order_beside
from llmtune.preflight import Prepared
from llmtune.run.console import Console
from llmtune.run.rundir import RunDir
from llmtune.run.signals import StopRequest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from llmtune.data.feed import EvaluationFeed, Mixture
    from llmtune.hardware.machine import Machine
    from llmtune.training.trainer import Trainer


def make_trainer(prepared: Prepared, run: RunDir, console: Console, stop: StopRequest) -> Trainer:
    """Model, optimizer and loop for a run folder, wrapped for the machine, at step 0."""
    from llmtune.hardware.machine import Machine
    from llmtune.model.backbone import load_model
    from llmtune.model.composite import Composite
    from llmtune.model.layers import LayerMap
    from llmtune.reporting.progress import make_watchers
    from llmtune.reporting.what_trains import trains_lines
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
        gradient_checkpointing=train.gradient_checkpointing, quantise=getattr(config.adapter, "quantisation", None),
        machine=machine, **task.config_values(),
    )  # fmt: skip
    layers = LayerMap.of(loaded.model, loaded.model.base_model_prefix)
    parts = Parts(
        config=config, task=task, network=loaded.model, layers=layers, token_table=prepared.tokenizer, options=train,
        splits=prepared.splits, feeds=prepared.feeds, max_tokens=prepared.max_tokens, num_steps=prepared.num_steps,
        steps_per_epoch=prepared.order.steps_per_epoch, peak_lr=prepared.peak_lr, console=console,
    )  # fmt: skip
    adapter = config.adapter.build(parts)
    parts = dataclasses.replace(parts, layers=LayerMap.of(adapter.wrap(loaded.model), loaded.model.base_model_prefix))
    objectives = {name: settings.build(parts) for name, settings in config.objective.items()}
    objectives |= adapter.terms()
    composite = Composite(loaded.model, objectives).to(machine.device)
    layers = LayerMap.of(composite, f"model.{loaded.model.base_model_prefix}")
    parts = dataclasses.replace(parts, network=composite, layers=layers)
    optimizer = config.optimizer.build(parts)
    policy = config.freeze_policy.build(parts)

    feed, validation = _feeds(prepared, machine, objectives)
    freezing = Freezing(composite, layers, policy)
    freezing.apply(0)
    if machine.world == 1:  # several processes agree on a stop in the loop
        stop.check("loading the model")
    trial = try_worst(composite, optimizer, feed, validation, machine, adjust=feed.micro_rows is None)
    trains = trains_lines(freezing, optimizer.param_groups, prepared.peak_lr, prepared.num_steps)
    for line in [*trains, *starting_lines(prepared, loaded, trial, machine)]:
        console.say(line)
    if config.hardware.compile:
        composite.trunk.compile()
    if policy.changes and machine.world > 1:
        # a parameter that is frozen when DDP wraps is never synchronised later
        for parameter in composite.parameters():
            parameter.requires_grad_(True)
        freezing.trainable = None
    # several objectives have weights that may be 0, and rows of their own
    find_unused = policy.changes or bool(trial.without_gradient) or len(objectives) > 1
    module, wrapped = machine.prepare(composite, optimizer, find_unused=find_unused)
    several = {
        **{f"objective {name}": part for name, part in objectives.items()}, "freeze_policy": policy,
        "adapter": adapter,
        "frozen": freezing.untouched,
    }  # fmt: skip
    if machine.is_main:
        store = CheckpointStore(run.checkpoints, keep=train.keep)
        store.open()
    per_epoch = prepared.order.steps_per_epoch
    return Trainer(
        composite=composite, module=module,
        stepper=Stepper(
            module, composite, wrapped, machine, config.seed, train.clip_norm, train.clip_value, train.grad_noise,
            followers=[part for part in several.values() if hasattr(part, "follow")],
        ),
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
        parts={name: part for name, part in several.items() if hasattr(part, "load_state")},
        fingerprints=prepared.fingerprints, should_stop=lambda: stop.name,
        watchers=make_watchers(console) if machine.is_main else [], state=TrainState(),
    )  # fmt: skip


def _feeds(
    prepared: Prepared, machine: Machine, objectives: Mapping[str, Any]
) -> tuple[Mixture, EvaluationFeed | None]:
    """This process's training batches of all feeds, and the task's validation batches if there are such rows."""
    from llmtune.data.feed import EvaluationFeed, Mixture, TokenTable, TrainFeed

    train, pad_id = prepared.config.train, prepared.tokenizer.pad_token_id
    micro_rows = None if isinstance(train.micro_rows, str) else train.micro_rows
    place = (machine.rank, machine.world)
    collate = prepared.task.collate_targets
    sources = {"task": (prepared.splits["train"], prepared.order, collate)}
    for name, rows in prepared.feeds.items():
        order = order_beside(prepared.order, rows, name)
        sources[name] = (rows.splits["train"], order, rows.reader.collate_targets)
    feeds = {
        name: TrainFeed(
            TokenTable(rows, pad_id=pad_id), order, targets, train.micro_tokens, micro_rows, *place, name=name,
            prepare=[
                part.prepare for part in objectives.values() if hasattr(part, "prepare") and part.feed == name
            ],
        )
        for name, (rows, order, targets) in sources.items()
    }  # fmt: skip
    if "validation" not in prepared.splits:
        return Mixture(feeds), None
    validation = TokenTable(prepared.splits["validation"], pad_id=pad_id)
    return Mixture(feeds), EvaluationFeed(validation, collate, train.micro_tokens, *place)

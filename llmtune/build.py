"""The one file that knows the order of making: model, objectives, optimizer, feeds, loop."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from llmtune.core.clock import parse_duration, period_steps
from llmtune.core.parts import Parts
from llmtune.core.schedules import staged_lr_schedule
from llmtune.core.types import TrainState
from llmtune.plan import order_beside
from llmtune.preflight import Prepared
from llmtune.run.console import Console
from llmtune.run.rundir import RunDir
from llmtune.run.signals import StopRequest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from llmtune.config.settings import Config
    from llmtune.core.protocols import Sampling
    from llmtune.data.batches.changing import RowChanges
    from llmtune.data.batches.feed import EvaluationFeed, Mixture
    from llmtune.hardware.machine import Machine
    from llmtune.model.backbone import LoadedModel
    from llmtune.model.composite import Composite
    from llmtune.model.prefix_cache import PrefixCache
    from llmtune.training.deciding import Deciding
    from llmtune.training.evaluation import Scored
    from llmtune.training.forgetting import Forgetting
    from llmtune.training.trainer import Clocks, Trainer


def make_trainer(prepared: Prepared, run: RunDir, console: Console, stop: StopRequest) -> Trainer:
    """Model, optimizer and loop for a run folder, wrapped for the machine, at step 0."""
    from llmtune.hardware.machine import Machine
    from llmtune.reporting.progress import make_watchers
    from llmtune.reporting.what_trains import trains_lines
    from llmtune.reporting.words import starting_lines
    from llmtune.run.checkpoint import CheckpointStore
    from llmtune.run.metrics_log import MetricsLog
    from llmtune.training.ema import make_average
    from llmtune.training.freezing import Freezing
    from llmtune.training.look_before import look_before
    from llmtune.training.step import Stepper
    from llmtune.training.trainer import Trainer
    from llmtune.training.trial import try_worst

    config = prepared.config
    train = config.train
    machine = Machine(config.hardware)
    loaded, adapter, parts = _network(prepared, machine, console)
    composite = parts.network
    objectives = composite.objectives
    optimizer, policy = config.optimizer.build(parts), config.freeze_policy.build(parts)
    balance, sampling = config.balance.build(parts), config.sampling.build(parts)

    _pack(prepared, composite)
    feed, validation = _feeds(prepared, machine, objectives, sampling)
    feed.feeds["task"].change = _row_changes(prepared, parts)
    freezing = Freezing(composite, parts.layers, policy, optimizer=optimizer)
    freezing.apply(0)
    if machine.world == 1:  # several processes agree on a stop in the loop
        stop.check("loading the model")
    freezing.thaw(prepared.num_steps)
    trial = try_worst(composite, optimizer, feed, validation, machine, adjust=feed.micro_rows is None, balance=balance)
    freezing.apply(0)
    freezing.unreached = frozenset(trial.without_gradient)
    if getattr(prepared.task, "looks_before", False):
        look_before(
            prepared.task, composite.model, prepared.splits, prepared.tokenizer, machine,
            max_tokens=feed.micro_tokens, should_stop=lambda: bool(stop), say=console.say,
        )  # fmt: skip
    average = make_average(composite, optimizer, train, prepared.num_steps)
    prefix = _prefix_cache(prepared, parts, policy, machine, feed, validation, averaged=average is not None)
    trains = trains_lines(freezing, optimizer.param_groups, prepared.peak_lr, prepared.num_steps)
    for line in [*trains, *starting_lines(prepared, loaded, trial, machine)]:
        console.say(line)
    if config.hardware.compile:
        composite.trunk.compile()
    if policy.changes and machine.world > 1:
        freezing.lift()
    # several objectives have weights that may be 0, and rows of their own
    find_unused = policy.changes or bool(trial.without_gradient) or len(objectives) > 1
    module, wrapped = machine.prepare(composite, optimizer, find_unused=find_unused)
    several = {
        **{f"objective {name}": part for name, part in objectives.items()}, "freeze_policy": policy,
        "adapter": adapter, "balance": balance, "sampling": sampling, "frozen": freezing.untouched,
    }  # fmt: skip
    if machine.is_main:
        store = CheckpointStore(run.checkpoints, keep=train.keep)
        store.open()
    return Trainer(
        composite=composite, module=module,
        stepper=Stepper(
            module, composite, wrapped, machine, config.seed, train.clip_norm, train.clip_value, train.grad_noise,
            balance, followers=[part for part in several.values() if hasattr(part, "follow")],
        ),
        freezing=freezing, prefix=prefix,
        schedule=staged_lr_schedule(
            config.optimizer, prepared.num_steps, getattr(policy, "lr_stages", ((0, 1.0),))
        ),
        peak_lr=prepared.peak_lr, task=prepared.task, feed=feed, validation=validation,
        beside=_scored_beside(prepared, machine, objectives), deciding=_deciding(prepared, objectives),
        score_followers=[part for part in several.values() if hasattr(part, "follow_scores")],
        forgetting=_forgetting(prepared, composite, machine),
        clocks=_clocks(prepared), machine=machine, store=store if machine.is_main else None,
        metrics=MetricsLog(run.metrics) if machine.is_main else None,
        speed=MetricsLog(run.speed) if machine.is_main else None,
        average=average, parts={name: part for name, part in several.items() if hasattr(part, "load_state")},
        fingerprints=prepared.fingerprints, should_stop=lambda: stop.name,
        watchers=make_watchers(console) if machine.is_main else [], state=TrainState(),
    )  # fmt: skip


def _network(prepared: Prepared, machine: Machine, console: Console) -> tuple[LoadedModel, Any, Parts]:
    """The model as loaded, the adapter that was put into it, and the parts with the Composite on its device."""
    from llmtune.freeze_policy.phases import never_trains
    from llmtune.model.backbone import load_model
    from llmtune.model.composite import Composite
    from llmtune.model.held import hold
    from llmtune.model.layers import LayerMap, wrap

    config, task = prepared.config, prepared.task
    loaded = load_model(
        config.model, task.model_class(), prepared.tokenizer, seed=config.seed,
        gradient_checkpointing=config.train.gradient_checkpointing,
        quantise=getattr(config.adapter, "quantisation", None), machine=machine,
        new_tokens=hasattr(task, "new_tokens"), **task.config_values(),
    )  # fmt: skip
    prefix = loaded.model.base_model_prefix
    parts = Parts(
        config=config, task=task, network=loaded.model, layers=LayerMap.of(loaded.model, prefix),
        token_table=prepared.tokenizer, options=config.train, splits=prepared.splits, feeds=prepared.feeds,
        max_tokens=prepared.max_tokens, num_steps=prepared.num_steps, steps_per_epoch=prepared.steps_per_epoch,
        peak_lr=prepared.peak_lr, console=console,
    )  # fmt: skip
    adapter = config.adapter.build(parts)
    network, added = wrap(adapter, loaded.model)
    parts = dataclasses.replace(parts, layers=LayerMap.of(network, prefix, added))
    composite = Composite(loaded.model, _terms(config, parts) | adapter.terms())
    layers = LayerMap.of(composite, f"model.{prefix}", {f"model.{name}" for name in added})
    parts = dataclasses.replace(parts, network=composite, layers=layers)
    if machine.precision == "bf16" and config.model.path is not None and not hasattr(config.adapter, "quantisation"):
        hold(composite, never_trains(parts) - layers.adapters, console.say)
    composite.to(machine.device)
    return loaded, adapter, parts


def _pack(prepared: Prepared, composite: Composite) -> None:
    """Rows of training end to end, if they shall be, once this very model was seen to keep them apart."""
    from llmtune.model.packed import Packed
    from llmtune.model.packing_plan import refuse_mixing

    if prepared.packing is not None:
        composite.trunk.packed = Packed(composite.trunk.backbone, prepared.packing)
        refuse_mixing(composite.trunk)


def _clocks(prepared: Prepared) -> Clocks:
    from llmtune.training.trainer import Clocks

    train, per_epoch = prepared.config.train, prepared.steps_per_epoch
    return Clocks(
        num_steps=prepared.num_steps, steps_per_epoch=per_epoch,
        eval_every=period_steps(train.eval_every, per_epoch), save_every=period_steps(train.save_every, per_epoch),
        log_every=train.log_every, max_seconds=parse_duration("train.max_time", train.max_time),
        patience=train.patience, min_gain=train.min_gain,
    )  # fmt: skip


def _forgetting(prepared: Prepared, composite: Composite, machine: Machine) -> Forgetting | None:
    """General text and the head that scores it, if it is to be watched."""
    from llmtune.data.batches.feed import EvaluationFeed, TokenTable
    from llmtune.model.language_head import LanguageHead
    from llmtune.training.forgetting import Forgetting

    if prepared.watched is None:
        return None
    table = TokenTable(prepared.watched, pad_id=prepared.tokenizer.pad_token_id)
    feed = EvaluationFeed(table, None, prepared.config.train.micro_tokens, machine.rank, machine.world)
    heads = (part for part in composite.own.modules() if isinstance(part, LanguageHead))
    return Forgetting(composite.model, feed, prepared.tokenizer, prepared.config, heads, machine.device)


def _terms(config: Config, parts: Parts) -> dict[str, Any]:
    """The objectives by name; settings that stand for several build a dict of them."""
    terms: dict[str, Any] = {}
    for name, settings in config.objective.items():
        built = settings.build(parts)
        terms |= built if isinstance(built, dict) else {name: built}
    return terms


def _scored_beside(prepared: Prepared, machine: Machine, objectives: Mapping[str, Any]) -> dict[str, Scored]:
    """By feed: validation rows that an objective brings together with a model and a task for them."""
    from llmtune.data.batches.feed import EvaluationFeed, table_of
    from llmtune.training.evaluation import Scored

    found = {}
    for part in objectives.values():
        rows = prepared.feeds[part.feed].splits if hasattr(part, "scored_by") else {}
        if "validation" in rows:
            model, task = part.scored_by
            table = table_of(rows["validation"], prepared.tokenizer, task)
            most = prepared.config.train.micro_tokens
            feed = EvaluationFeed(table, task.collate_targets, most, machine.rank, machine.world)
            found[part.feed] = Scored(model, feed, task)
    return found


def _deciding(prepared: Prepared, objectives: Mapping[str, Any]) -> Deciding:
    """By the task's own metric, or where `best_by` of tasks beside it says so by the mean of all."""
    from llmtune.training.deciding import Deciding

    asked = any(getattr(part, "best_by", "task") == "mean" for part in prepared.config.objective.values())
    scored = {part.feed: part.scored_by[1].metric for part in objectives.values() if hasattr(part, "scored_by")}
    there = {feed: metric for feed, metric in scored.items() if "validation" in prepared.feeds[feed].splits}
    return Deciding(prepared.task.metric, prepared.task.mode, there, by_mean=asked)


def _prefix_cache(
    prepared: Prepared, parts: Parts, policy: Any, machine: Machine, feed: Mixture, validation: EvaluationFeed | None,
    *, averaged: bool,
) -> PrefixCache:  # fmt: skip
    """What keeps the output of a frozen bottom, if anything does; nothing is opened yet."""
    from llmtune.model.prefix_cache import PrefixCache
    from llmtune.model.prefix_plan import prefix_home

    model = parts.network.model
    tables = {"train": feed.feeds["task"].table}
    # an average has other values than the weights where a policy froze what had trained
    if validation is not None and not (averaged and policy.changes):
        tables["validation"] = validation.table
    plan = prepared.prefix.without(parts.network.objectives.values())
    if plan != prepared.prefix:
        parts.console.say(plan.line)
    return PrefixCache(
        plan=plan, model=model, network=parts.network,
        layers=parts.layers, machine=machine, home=prefix_home(prepared.config, parts.console.note),
        budget=prepared.config.train.prefix_cache_bytes,
        key_parts={
            "rows": prepared.fingerprints["data"], "model": prepared.fingerprints["model"],
            "attention": model.config._attn_implementation,
        },
        steps_of_change=getattr(policy, "steps_of_change", ()), num_steps=prepared.num_steps,
        steps_per_epoch=prepared.steps_per_epoch, say=parts.console.say,
        tables=tables,
    )  # fmt: skip


def _row_changes(prepared: Prepared, parts: Parts) -> RowChanges | None:
    """What augmentation makes of the task's training rows; None where none is chosen."""
    from llmtune.data.batches.changing import RowChanges

    if not prepared.config.augmentation:
        return None
    changes = [settings.build(parts) for settings in prepared.config.augmentation.values()]
    tokenizer = prepared.tokenizer
    return RowChanges(
        changes, prepared.splits["train"], prepared.task.encoder(tokenizer), max_tokens=prepared.max_tokens,
        pad_id=tokenizer.pad_token_id, special_ids=tokenizer.all_special_ids,
    )  # fmt: skip


def _feeds(
    prepared: Prepared, machine: Machine, objectives: Mapping[str, Any], sampling: Sampling
) -> tuple[Mixture, EvaluationFeed | None]:
    """This process's training batches of all feeds, and the task's validation batches if there are such rows."""
    from llmtune.data.batches.feed import EvaluationFeed, Mixture, TrainFeed, table_of

    train, task = prepared.config.train, prepared.task
    micro_rows = None if isinstance(train.micro_rows, str) else train.micro_rows
    place = (machine.rank, machine.world)
    sources = {"task": (prepared.splits["train"], prepared.order, task)}
    for name, rows in prepared.feeds.items():
        sources[name] = (rows.splits["train"], order_beside(prepared.order, rows, name), rows.reader)
    feeds = {
        name: TrainFeed(
            table_of(rows, prepared.tokenizer, reader), order, reader.collate_targets, train.micro_tokens, micro_rows,
            *place, name=name, packing=prepared.packing is not None,
            prepare=[
                part.prepare for part in objectives.values() if hasattr(part, "prepare") and part.feed == name
            ],
        )
        for name, (rows, order, reader) in sources.items()
    }  # fmt: skip
    if "validation" not in prepared.splits:
        return Mixture(feeds, sampling), None
    validation = table_of(prepared.splits["validation"], prepared.tokenizer, task)
    return Mixture(feeds, sampling), EvaluationFeed(validation, task.collate_targets, train.micro_tokens, *place)

"""Everything that can be refused, looked at before any weights are loaded: `check` is this, `train` begins so."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune.config.settings import Config
from llmtune.core.environment import hub_answers, on_a_hub, set_environment
from llmtune.core.errors import ConfigError, Fault, ModelError
from llmtune.core.parts import FeedRows, Parts, Prospect
from llmtune.plan import disk_budget, epoch_steps, make_order, num_steps, peak_lr
from llmtune.reading import all_of, encode, own_feeds, read, tokenizer_of, watched_rows
from llmtune.run.console import Console
from llmtune.run.rundir import refuse_taken
from llmtune.run.signals import StopRequest

if TYPE_CHECKING:
    from llmtune.data.batches.order import Order
    from llmtune.model.packed import Isolation
    from llmtune.model.prefix_plan import PrefixPlan


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What `preflight` found good: everything but the weights."""

    config: Config
    task: Any
    tokenizer: Any
    model_config: Any
    splits: dict[str, Any]
    """encoded rows by split"""
    max_tokens: int
    order: Order
    feeds: dict[str, FeedRows]
    """rows that objectives bring themselves, by feed"""
    watched: Any
    """encoded rows of general text by which forgetting is measured; None: it is not"""
    num_steps: int
    steps_per_epoch: int
    peak_lr: float
    prefix: PrefixPlan
    packing: Isolation | None
    """how packed rows are kept apart; None: rows are padded"""
    parameters: int
    disk_budget: int
    """bytes that the run folder may take"""
    report: dict[str, Any]
    """data_report.json"""
    fingerprints: dict[str, str]


def preflight(config: Config, console: Console, stop: StopRequest, *, run: Path | None = None) -> Prepared:
    """Look at files, columns, labels, tokenizer, model, freezing, hardware and disk; read and tokenise the rows.

    What this accepts, `train` does not refuse. `check` is this and nothing more. `run`: the folder that is there
    already, of a run that is gone on with.

    Raises:
        UserError: all faults that could be found, before any weights are loaded.
    """
    unreachable = not config.offline and on_a_hub(_places(config)) and not hub_answers()
    if unreachable:
        console.say("the model hub can't be reached: only what lies in the local cache is found")
    for name in set_environment(offline=config.offline or unreachable):
        console.say(f"{name} is set in the environment; llmtune's settings decide, it is left alone")
    # the hub's library reads the environment once, when it is imported
    from llmtune.data.report import data_report
    from llmtune.model.backbone import model_fingerprint
    from llmtune.model.layers import LayerMap, wrap
    from llmtune.model.packing_plan import plan_packing

    task = config.task.build()
    labelled, model_config, *_ = all_of(
        lambda: read(config, task, console, stop),
        lambda: _model_config(config),
        lambda: _hardware(config),
        lambda: refuse_taken(config.run.dir) if config.run.dir and run is None else None,
    )
    raw, labels = labelled
    stop.check("reading data")
    tokenizer = tokenizer_of(config, task, raw, model_config, console)
    max_tokens = _max_tokens(config, task, model_config, tokenizer)
    encoded = encode(config, task, raw, labels, tokenizer, max_tokens, console, stop)
    task.set_loss(config.train, _targets(labels, encoded))
    feeds = own_feeds(config, tokenizer, max_tokens, console, stop)
    watched = watched_rows(config, model_config, tokenizer, max_tokens, console, stop)
    network, added = wrap(config.adapter.build(None), _on_meta(config, task, model_config, tokenizer))
    if not hasattr(task, "complete"):  # whose rows hold no ids
        _refuse_strange_ids(config, network, encoded.splits)
    _refuse_idle_patience(config, encoded.splits)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    order = make_order(config, encoded.splits["train"])
    per_epoch = epoch_steps(config, order, feeds)
    steps = num_steps(config, per_epoch)
    prospect = Prospect(
        config=config, task=task, model_config=model_config, tokenizer=tokenizer, network=network,
        layers=LayerMap.of(network, network.base_model_prefix, added), splits=encoded.splits, feeds=feeds,
        num_steps=steps, steps_per_epoch=per_epoch,
    )  # fmt: skip
    _check_parts(config, prospect)
    budget = disk_budget(prospect, run)
    report = data_report(raw, labels, encoded)
    if feeds:
        report["beside"] = {name: rows.report for name, rows in feeds.items()}
    fingerprints = {"data": encoded.fingerprint, "model": model_fingerprint(model_config, tokenizer)}
    return Prepared(
        config=config, task=task, tokenizer=tokenizer, model_config=model_config, splits=encoded.splits,
        max_tokens=max_tokens, order=order, feeds=feeds, watched=watched, num_steps=steps, steps_per_epoch=per_epoch,
        peak_lr=peak_lr(config), prefix=_prefix_plan(prospect, max_tokens, console),
        packing=plan_packing(config, network), parameters=parameters, disk_budget=budget, report=report,
        fingerprints=fingerprints | _beside(config, feeds),
    )  # fmt: skip


def _beside(config: Config, feeds: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprints of what else a run reads, which a run that is gone on with must find again."""
    found = {f"rows of {name}": rows.fingerprint for name, rows in feeds.items()}
    for part in [*config.objective.values(), *config.augmentation.values()]:
        if hasattr(part, "fingerprints"):
            found |= part.fingerprints()
    return found


def _targets(labels: Any, encoded: Any) -> Sequence[Any]:
    """Of all train rows: those of their labels, or what the encoder made of tokens."""
    found, rows = labels.targets["train"], encoded.splits["train"]
    return rows["target"] if found[0] is None and "target" in rows.column_names else found


def _check_parts(config: Config, prospect: Prospect) -> None:
    """The faults that the parts of a run find in what they are put together with."""
    _refuse_rewriting(config, prospect.task)
    parts = [
        config.task, config.freeze_policy, config.optimizer, config.adapter, config.balance, config.sampling,
        *config.objective.values(), *config.augmentation.values(),
    ]  # fmt: skip
    all_of(*(functools.partial(part.check, prospect) for part in parts if hasattr(part, "check")))


def _places(config: Config) -> list[str]:
    """Where models and rows come from."""
    parts = [*config.objective.values(), *config.augmentation.values()]
    models = [place for part in parts if hasattr(part, "places") for place in part.places()]
    named = [config.model.path, config.data.train, config.data.validation, config.data.test, *models]
    return [place for item in named for place in (item if isinstance(item, list) else [item]) if place]


def _model_config(config: Config) -> Any:
    from llmtune.model.backbone import check_weights, model_config

    found = model_config(config.model)
    check_weights(config.model)
    return found


def _hardware(config: Config) -> None:
    import torch

    from llmtune.hardware.machine import pick_device, pick_precision

    device = pick_device(config.hardware)
    pick_precision(config.hardware, device)
    gpus = torch.cuda.device_count() if device == "cuda" else None
    if gpus is not None and config.hardware.processes > gpus:
        raise ConfigError(
            Fault("hardware.processes", f"{config.hardware.processes}, one GPU each", f"there are {gpus} GPUs")
        )


def _prefix_plan(prospect: Prospect, max_tokens: int, console: Console) -> PrefixPlan:
    from llmtune.hardware.machine import pick_device
    from llmtune.model.prefix_plan import plan_prefix, prefix_home

    config = prospect.config
    parts = Parts(
        config=config, task=prospect.task, network=prospect.network, layers=prospect.layers,
        token_table=prospect.tokenizer, options=config.train, splits=prospect.splits, feeds=prospect.feeds,
        max_tokens=max_tokens, num_steps=prospect.num_steps, steps_per_epoch=prospect.steps_per_epoch,
        peak_lr=peak_lr(config), console=console,
    )  # fmt: skip
    home = prefix_home(config, console.note)
    return plan_prefix(parts, config.freeze_policy.build(parts), pick_device(config.hardware), home)


def _max_tokens(config: Config, task: Any, model_config: Any, tokenizer: Any) -> int:
    from llmtune.model.backbone import LONGEST, longest_row

    virtual = getattr(config.adapter, "virtual_tokens", 0)
    own = task.longest_row(model_config) if hasattr(task, "longest_row") else None
    most = (longest_row(model_config, tokenizer) if own is None else own) - virtual
    if virtual and most < virtual:
        raise ConfigError(
            Fault("adapter.virtual_tokens", f"{virtual} of the {most + virtual} tokens that this model takes",
                  "half of them at most", "adapter.virtual_tokens=20")
        )  # fmt: skip
    wanted = config.data.max_tokens
    if isinstance(wanted, str):
        return min(most, LONGEST) if own is None else most
    if wanted > most:
        given = f"{wanted} tokens a row"
        raise ConfigError(Fault("data.max_tokens", given, f"this model takes {most} at most", "data.max_tokens=auto"))
    return wanted


def _on_meta(config: Config, task: Any, model_config: Any, tokenizer: Any) -> Any:
    """The task model without weights, once attention and checkpointing were looked at."""
    import copy

    import torch

    from llmtune.model.backbone import set_dropout
    from llmtune.model.new_tokens import tell_network

    shape = copy.deepcopy(model_config)
    set_dropout(shape, config.model.dropout)
    for key, value in task.config_values().items():
        setattr(shape, key, value)
    grows = hasattr(task, "new_tokens") and len(tokenizer) > shape.vocab_size
    if config.model.path is None or grows:
        shape.vocab_size = len(tokenizer)
    shape.pad_token_id = tokenizer.pad_token_id
    try:
        with torch.device("meta"):
            attention = None if config.model.attention == "auto" else config.model.attention
            network = task.model_class().from_config(shape, attn_implementation=attention)
    except (ValueError, KeyError, ImportError) as error:
        raise ModelError(
            Fault("model", f"{config.model.name} ({shape.model_type}) with model.attention={config.model.attention} "
                  f"can't serve task={config.task.name}", getattr(task, "fits", str(error).split("\n")[0][:200]))
        ) from error  # fmt: skip
    if config.train.gradient_checkpointing and not network.supports_gradient_checkpointing:
        raise ConfigError(
            Fault("train.gradient_checkpointing", f"transformers has none for {shape.model_type} models", "",
                  "train.gradient_checkpointing=false")
        )  # fmt: skip
    return tell_network(network, tokenizer if config.model.path else None)


def _refuse_strange_ids(config: Config, network: Any, splits: Mapping[str, Any]) -> None:
    """ModelError where the tokenizer gives ids for which the model has no embedding."""
    from llmtune.data.text.blocks import highest_id

    size = network.get_input_embeddings().weight.shape[0]
    highest = max(highest_id(rows) for rows in splits.values())
    if highest >= size:
        raise ModelError(
            Fault("model.path", f"the tokenizer in {config.model.path} gives ids up to {highest}, the model knows "
                  f"{size}", "a tokenizer that belongs to the model")
        )  # fmt: skip


def _refuse_rewriting(config: Config, task: Any) -> None:
    """ConfigError where rows would be changed of which more than a text and a label is known."""
    further = [role.name for role in task.roles if role.name not in ("text", "text_pair", "label")]
    if config.augmentation and further:
        raise ConfigError(
            Fault("augmentation", f"{', '.join(config.augmentation)} with task={config.task.name}, whose rows mark "
                  f"places in texts or have several ({', '.join(further)})", "texts with a label, or pairs of texts",
                  "type augmentation=[]")
        )  # fmt: skip


def _refuse_idle_patience(config: Config, splits: Mapping[str, Any]) -> None:
    if config.train.patience and "validation" not in splits:
        raise ConfigError(
            Fault("train.patience", f"{config.train.patience}, but there are no validation rows to score",
                  "data.validation, or data.validation_share above 0", "train.patience=null")
        )  # fmt: skip

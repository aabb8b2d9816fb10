"""Rows read and encoded: the task's, and those that objectives bring besides; the tokenizer they are encoded with."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmtune.config.settings import Config
from llmtune.core.errors import ConfigError, Fault, UserError
from llmtune.core.parts import FeedRows, FeedWanted
from llmtune.run.console import Console
from llmtune.run.signals import StopRequest


def all_of(*stages: Callable[[], Any]) -> list[Any]:
    """The results of independent stages; the faults of all of them in one error."""
    results: list[Any] = []
    faults: list[Fault | str] = []
    first: UserError | None = None
    for stage in stages:
        try:
            results.append(stage())
        except UserError as error:
            first = first or error
            faults += error.faults
    if first is not None:
        raise type(first)(*faults)
    return results


def read(config: Config, task: Any, console: Console, stop: StopRequest) -> tuple[Any, Any]:
    """Raw rows by split, and what `task` made of their labels. Raises UserError."""
    from llmtune.data.rows import read_splits

    data = config.data
    named = [split for split in ("train", "validation", "test") if getattr(data, split) not in (None, [])]
    shipped = [split for split in named if str(getattr(data, split)).startswith("builtin:")]
    if shipped and len(shipped) < len(named):
        own = [split for split in named if split not in shipped]
        raise ConfigError(*(
            Fault(f"data.{split}", f"{getattr(data, split)} beside the shipped rows of data={data.name}",
                  "files of your own go with data=files", f"data=files data.{split}={getattr(data, split)}")
            for split in own
        ))  # fmt: skip
    if getattr(task, "in_blocks", False):
        from llmtune.data.text.block_splits import open_texts

        texts = open_texts(data, task.documents, should_stop=lambda: bool(stop), offline=config.offline)
        return texts, task.read_labels(texts, None, None)
    raw = read_splits(data, task.roles, should_stop=lambda: bool(stop), offline=config.offline, log=console.note)
    return raw, task.read_labels(raw, data.label_names, data.label_delimiter)


def encode(
    config: Config, task: Any, raw: Any, labels: Any, tokenizer: Any, max_tokens: int, console: Console,
    stop: StopRequest,
) -> Any:  # fmt: skip
    """The rows as token ids and targets, from the cache where they are there already."""
    from llmtune.data.cache import code_version
    from llmtune.data.tokens.encode import encode_splits
    from llmtune.data.tokens.token_rows import Limits, makes_windows
    from llmtune.model.backbone import model_config, tokenizer_sha

    if hasattr(task, "meet_model"):
        task.meet_model(model_config(config.model))
    data, encoder = config.data, task.encoder(tokenizer)
    if getattr(task, "in_blocks", False):
        from llmtune.data.text.block_splits import encode_blocks

        return encode_blocks(
            raw, tokenizer, tokenizer_sha(tokenizer), max_tokens, next_words=task.next_words, log=console.note,
            progress=console.say,
        )  # fmt: skip
    if makes_windows(encoder) and data.on_overlength == "truncate":
        raise ConfigError(
            Fault("data.on_overlength", f"truncate, and task={config.task.name} would lose what is marked in the rest",
                  "split (windows that lose nothing), drop, error", "type data.on_overlength=split")
        )  # fmt: skip
    key_parts = {
        "tokenizer": tokenizer_sha(tokenizer),
        "task": code_version(inspect.getmodule(type(task))),  # type: ignore[arg-type]
        **({"template": task.encoding_key} if hasattr(task, "encoding_key") else {}),
    }
    return encode_splits(
        raw, encoder, key_parts, targets=labels.targets,
        limits=Limits(max_tokens, data.on_overlength, data.max_truncated_share, data.on_unsupervised),
        unknown_id=tokenizer.unk_token_id,
        cache_dir=data.cache_dir, should_stop=lambda: bool(stop), log=console.note,
    )  # fmt: skip


def own_feeds(
    config: Config, tokenizer: Any, max_tokens: int, console: Console, stop: StopRequest
) -> dict[str, FeedRows]:
    """The encoded rows that objectives bring besides the task's, by the name of their feed."""
    from llmtune.data.report import data_report

    def fetch(wanted: FeedWanted) -> FeedRows:
        asked = dataclasses.replace(config, data=wanted.data)
        with _naming(wanted.where):
            raw, labels = read(asked, wanted.reader, console, stop)
            encoded = encode(asked, wanted.reader, raw, labels, tokenizer, max_tokens, console, stop)
        return FeedRows(
            splits=encoded.splits, reader=wanted.reader, fingerprint=encoded.fingerprint,
            batch_rows=wanted.batch_rows, batch_tokens=wanted.batch_tokens, data=wanted.data,
            report=data_report(raw, labels, encoded),
        )  # fmt: skip

    parts = [part for part in config.objective.values() if hasattr(part, "feeds")]
    wanted = {name: feed for part in parts for name, feed in part.feeds(config).items()}
    return dict(zip(wanted, all_of(*(functools.partial(fetch, feed) for feed in wanted.values()))))


def watched_rows(
    config: Config, model_config: Any, tokenizer: Any, max_tokens: int, console: Console, stop: StopRequest
) -> Any:
    """The encoded rows of `train.watch_forgetting`, or None. ModelError where the model has no head to score them."""
    from llmtune.data.text.plain_text import PlainText, plain_rows
    from llmtune.training.forgetting import refuse_without_head

    train = config.train
    if train.watch_forgetting is None:
        return None
    refuse_without_head(config, model_config)
    most, reader = train.watch_forgetting_rows, PlainText()
    asked = dataclasses.replace(config, data=plain_rows(config, train.watch_forgetting, limit=most))
    with _naming("train.watch_forgetting"):
        raw, labels = read(asked, reader, console, stop)
        rows = encode(asked, reader, raw, labels, tokenizer, max_tokens, console, stop).splits["train"]
    return rows.select(range(min(most, len(rows))))


def plain_texts(task: Any, columns: dict[str, list[Any]]) -> tuple[list[str], list[str | None] | None]:
    """The texts of some rows, and the second ones where rows have two; `probe_texts` of a task knows where they are."""
    if hasattr(task, "probe_texts"):
        return task.probe_texts(columns)
    return columns["text"], columns.get("text_pair")


@contextlib.contextmanager
def _naming(where: str | None) -> Iterator[None]:
    """Faults that name keys of `data` or `task` name those below `where`, where the same settings were given."""
    try:
        yield
    except UserError as error:
        if where is None:
            raise
        # how long rows may be is the run's to say
        key = re.compile(r"\b(data\.columns|data(?!\.max_tokens)|task)\.(?=\w)")
        moved = [key.sub(f"{where}.", str(fault)) for fault in error.faults]
        raise type(error)(*moved) from error


def tokenizer_of(config: Config, task: Any, raw: Any, model_config: Any, console: Console) -> Any:
    """The model's tokenizer; one trained on the training rows, and on what a task says itself, is kept in the cache."""
    from llmtune.data.cache import cached, code_version
    from llmtune.model import speech_tokenizers, tokenizers
    from llmtune.model.backbone import load_tokenizer, open_tokenizer

    settings = config.model
    if settings.tokenizer is None:
        return _with_new_tokens(load_tokenizer(settings, ()), task)

    own = getattr(task, "own_texts", [])

    def build(folder: Path) -> None:
        rows = raw.splits["train"]
        texts = (text for batch in rows.iter(1000) for some in plain_texts(task, batch) for text in some or () if text)
        load_tokenizer(settings, itertools.chain(texts, own)).save_pretrained(folder)

    key = {
        "rows": raw.fingerprint, "settings": dataclasses.asdict(settings.tokenizer),
        "config": model_config.to_dict(), "code": code_version(tokenizers, speech_tokenizers),
        **({"own": own} if own else {}),
    }  # fmt: skip
    key = json.loads(json.dumps(key, default=str))
    root = Path(config.data.cache_dir).expanduser() if config.data.cache_dir else None
    folder = cached("tokenizer", key, build, root, console.note)
    return _with_new_tokens(open_tokenizer(folder), task)


def _with_new_tokens(tokenizer: Any, task: Any) -> Any:
    """The tokenizer, which knows the task's own special tokens."""
    from llmtune.model.new_tokens import add_tokens

    wanted = task.new_tokens(tokenizer) if callable(getattr(task, "new_tokens", 0)) else getattr(task, "new_tokens", ())
    return add_tokens(tokenizer, wanted)

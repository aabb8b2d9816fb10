"""The settings that every run has, as frozen dataclasses; their values stand in `conf/`, never here.

A field's type is what `config.check` holds a value against; ranges and words are checked in `__post_init__`.
The meaning of each key is the comment beside it in the YAML. No field has a default: there is one place for values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmtune.core.clock import parse_duration, parse_period
from llmtune.core.ranges import at_least, between, one_of, positive

FORMATS = (
    *("auto", "csv", "tsv", "json", "jsonl", "parquet", "text_folders", "lines"),
    *("conll", "conllu", "squad", "semeval", "parallel", "speech_folders"),
)
"""of files with rows"""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    dir: str | None
    name: str | None
    plugins: list[str]


@dataclass(frozen=True, kw_only=True)
class ColumnSettings:
    text: str | int | None
    text_pair: str | int | None
    label: str | int | list[str | int] | None
    tokens: str | int | None
    tags: str | int | None
    spans: str | int | None
    question: str | int | None
    context: str | int | None
    answers: str | int | None
    choices: str | int | list[str | int] | None
    head: str | int | None
    tail: str | int | None
    negative: str | int | list[str | int] | None
    group: str | int | None
    source: str | int | None
    target: str | int | list[str | int] | None
    messages: str | int | None
    prompt: str | int | None
    response: str | int | None
    system: str | int | None
    tools: str | int | None
    chosen: str | int | None
    rejected: str | int | None
    tests: str | int | list[str | int] | None
    entry_point: str | int | None
    audio: str | int | None
    transcript: str | int | None


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    name: str
    train: str | list[str] | None
    validation: str | list[str] | None
    test: str | list[str] | None
    columns: ColumnSettings
    label_names: str | list[str] | None
    label_delimiter: str | None
    format: str
    delimiter: str
    quote: str
    encoding: str
    header: str | bool
    validation_share: float
    test_share: float
    split_seed: int
    limit: int | None
    max_tokens: str | int
    on_overlength: str
    max_truncated_share: float
    on_unsupervised: str
    on_bad_row: str
    max_bad_rows: int | None
    cache_dir: str | None

    def __post_init__(self) -> None:
        one_of("format", self.format, FORMATS)
        one_of("on_overlength", self.on_overlength, ("truncate", "drop", "error", "split"))
        one_of("on_unsupervised", self.on_unsupervised, ("error", "drop"))
        one_of("on_bad_row", self.on_bad_row, ("error", "drop"))
        one_of("header", self.header, ("auto", True, False))
        between("validation_share", self.validation_share, 0, 0.9)
        between("test_share", self.test_share, 0, 0.9)
        between("max_truncated_share", self.max_truncated_share, 0, 1)
        positive("limit", self.limit)
        if isinstance(self.max_tokens, str):
            one_of("max_tokens", self.max_tokens, ("auto",))
        else:
            at_least("max_tokens", self.max_tokens, 4)
        at_least("max_bad_rows", self.max_bad_rows, 0)


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    kind: str
    vocab_size: int
    min_frequency: int
    lowercase: bool

    def __post_init__(self) -> None:
        one_of("kind", self.kind, ("wordpiece", "bpe", "unigram", "characters"))
        at_least("vocab_size", self.vocab_size, 64)
        at_least("min_frequency", self.min_frequency, 1)


@dataclass(frozen=True, kw_only=True)
class Recommended:
    lr: float
    epochs: float

    def __post_init__(self) -> None:
        positive("lr", self.lr)
        positive("epochs", self.epochs)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    name: str
    path: str | None
    revision: str | None
    architecture: dict[str, Any] | None
    tokenizer: TokenizerSettings | None
    attention: str
    dropout: float | None
    recommended: Recommended

    def __post_init__(self) -> None:
        one_of("attention", self.attention, ("auto", "eager", "sdpa", "flash_attention_2", "flex_attention"))
        between("dropout", self.dropout, 0, 0.9)


@dataclass(frozen=True, kw_only=True)
class HardwareSettings:
    name: str
    device: str
    precision: str
    processes: int
    threads: str | int
    compile: bool
    deterministic: bool

    def __post_init__(self) -> None:
        one_of("device", self.device, ("auto", "cpu", "cuda", "mps"))
        one_of("precision", self.precision, ("auto", "fp32", "bf16", "fp16"))
        at_least("processes", self.processes, 1)
        if isinstance(self.threads, str):
            one_of("threads", self.threads, ("auto",))
        else:
            at_least("threads", self.threads, 1)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    epochs: float | str
    max_steps: int | None
    max_time: float | str | None
    batch_rows: int | None
    batch_tokens: int | str | None
    micro_rows: int | str
    micro_tokens: int
    order: str
    eval_every: int | str | None
    save_every: int | str | None
    log_every: int
    patience: int | None
    min_gain: float
    keep: int
    clip_norm: float | None
    clip_value: float | None
    grad_noise: float
    label_smoothing: float
    class_weights: str | dict[str, float]
    effective_beta: float
    focal_gamma: float
    gradient_checkpointing: bool
    ema: float | None
    swa: float | None
    packing: bool
    prefix_cache: str
    prefix_cache_bytes: float | str
    watch_forgetting: str | None
    watch_forgetting_rows: int
    verify_model: str

    def __post_init__(self) -> None:
        if isinstance(self.epochs, str):
            one_of("epochs", self.epochs, ("auto",))
        else:
            positive("epochs", self.epochs)
        positive("max_steps", self.max_steps)
        parse_duration("max_time", self.max_time)
        positive("batch_rows", self.batch_rows)
        if isinstance(self.batch_tokens, str):
            one_of("batch_tokens", self.batch_tokens, ("auto",))
        else:
            positive("batch_tokens", self.batch_tokens)
        if isinstance(self.micro_rows, str):
            one_of("micro_rows", self.micro_rows, ("auto",))
        else:
            positive("micro_rows", self.micro_rows)
        positive("micro_tokens", self.micro_tokens)
        one_of("order", self.order, ("buckets", "random"))
        parse_period("eval_every", self.eval_every)
        parse_period("save_every", self.save_every)
        positive("log_every", self.log_every)
        positive("patience", self.patience)
        if self.patience is not None and self.eval_every is None:
            raise ValueError("patience: set, while eval_every=null scores at the end only; type train.eval_every=1ep")
        at_least("min_gain", self.min_gain, 0)
        at_least("keep", self.keep, 1)
        positive("clip_norm", self.clip_norm)
        positive("clip_value", self.clip_value)
        at_least("grad_noise", self.grad_noise, 0)
        between("label_smoothing", self.label_smoothing, 0, 0.99)
        if isinstance(self.class_weights, str):
            one_of("class_weights", self.class_weights,
                   ("none", "balanced", "effective", "'{NAME: WEIGHT, ...}' (in quotes)"))  # fmt: skip
        between("effective_beta", self.effective_beta, 0, 0.999999)
        at_least("focal_gamma", self.focal_gamma, 0)
        between("ema", self.ema, 0, 0.99999)
        between("swa", self.swa, 0, 0.9999)
        if self.ema is not None and self.swa is not None:
            raise ValueError("swa: set together with ema; one average of the weights is kept; type train.ema=null")
        one_of("prefix_cache", self.prefix_cache, ("auto", "on", "off"))
        if isinstance(self.prefix_cache_bytes, str):
            one_of("prefix_cache_bytes", self.prefix_cache_bytes, ("auto",))
        else:
            positive("prefix_cache_bytes", self.prefix_cache_bytes)
        at_least("watch_forgetting_rows", self.watch_forgetting_rows, 1)
        one_of("verify_model", self.verify_model, ("process", "here", "off"))
        if self.batch_rows is not None and isinstance(self.batch_tokens, int):
            raise ValueError(
                "batch_rows: set together with batch_tokens; only one may be; type train.batch_tokens=null"
            )
        if self.batch_rows is None and self.batch_tokens is None:
            raise ValueError("batch_rows: neither it nor batch_tokens is set; one must be; type train.batch_rows=32")


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    dir: str | None
    jobs: int

    def __post_init__(self) -> None:
        at_least("jobs", self.jobs, 1)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole checked run: what `config.check.checked(cfg)` returns and everything below `build` takes.

    The parts (`task`, `freeze_policy`, `adapter`, `optimizer`, `balance`, `sampling`, each value of `objective` and
    `augmentation`) are instances of the one public settings dataclass of the shelf module that the YAML names.
    """

    seed: int
    resume: str | None
    offline: bool
    run: RunSettings
    task: Any
    data: DataSettings
    model: ModelSettings
    objective: dict[str, Any]
    augmentation: dict[str, Any]
    freeze_policy: Any
    adapter: Any
    optimizer: Any
    balance: Any
    sampling: Any
    hardware: HardwareSettings
    train: TrainSettings
    sweep: SweepSettings

    def __post_init__(self) -> None:
        between("seed", self.seed, 0, 2**31 - 1)
        if not self.objective:
            raise ValueError("objective: none was given; a run needs at least one; objective=[supervised]")

"""What is known only at run time and handed to a shelf entry: before weights are loaded, and once they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class FeedWanted:
    """Rows that an objective brings besides the task's; its settings name them in `feeds(config) -> {name: ...}`."""

    data: Any
    """DataSettings of these rows"""
    reader: Any
    """says which columns are read and how they are encoded, as a Task does: `roles`, `read_labels`, `encoder`,
    `collate_targets`"""
    batch_rows: int | None = None
    """rows per optimizer step; None: by tokens"""
    batch_tokens: int | None = None
    """real tokens per optimizer step; None beside batch_rows=None: as many rows or tokens as the task has"""
    where: str | None = None
    """the key under which a user gave `data`, for messages about it; None: they speak of `data`"""


@dataclass(frozen=True, kw_only=True)
class FeedRows:
    """The same, read and encoded."""

    splits: Mapping[str, Any]
    reader: Any
    fingerprint: str
    batch_rows: int | None
    batch_tokens: int | None
    data: Any = None
    """the DataSettings that they were read with"""
    report: Mapping[str, Any] = field(default_factory=dict)
    """as data_report.json"""


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What a part's settings may look at in `check(prospect)`, to refuse what can't work before any weights load."""

    config: Any
    """the whole Config"""
    task: Any
    """the built Task, its labels known"""
    model_config: Any
    """the transformers config"""
    tokenizer: Any
    network: Any
    """the task model on the meta device, the adapter's modules already in it"""
    layers: Any
    """its LayerMap"""
    splits: Mapping[str, Any]
    """encoded rows by split"""
    feeds: Mapping[str, Any] = field(default_factory=dict)
    """name -> FeedRows that objectives bring themselves"""
    num_steps: int
    steps_per_epoch: int


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Settings say what the user wants; parts say what is there. The two share no names."""

    config: Any
    """the whole Config"""
    task: Any
    """the built Task"""
    network: Any
    """the Hugging Face task model; for an optimizer the Composite (nn.Module)"""
    layers: Any
    """its LayerMap"""
    token_table: Any
    """the tokenizer"""
    options: Any
    """TrainSettings"""
    splits: Mapping[str, Any]
    """encoded rows by split"""
    feeds: Mapping[str, Any]
    """name -> FeedRows that objectives bring themselves"""
    max_tokens: int
    num_steps: int
    """optimizer steps of the whole run"""
    steps_per_epoch: int
    peak_lr: float
    """`optimizer.lr`, or what the model recommends"""
    console: Any
    """`say` prints, `note` only logs"""

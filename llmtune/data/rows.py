"""Rows in: from what the settings name to clean Arrow splits, with a report of all that was found and dropped."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow

from llmtune.config.settings import DataSettings
from llmtune.core import seeds
from llmtune.core.errors import DataError, Fault
from llmtune.data import cache, columns, split_build, splits
from llmtune.data import roles as roles_module
from llmtune.data.files import arrow_files, dialect, hub, layouts, sources, speech_folders, tables, text_encoding
from llmtune.data.files.arrow_files import open_arrow
from llmtune.data.files.sources import find_sources
from llmtune.data.forms import answer_places, audio, conversation, entity_pairs, tool_schemas, values
from llmtune.data.roles import Role
from llmtune.data.split_build import SPLITS, SplitBuild, collect, shares_of

if TYPE_CHECKING:
    import datasets

__all__ = ["RawSplits", "Role", "read_splits"]

READ_SETTINGS = (
    *("columns", "label_delimiter", "format", "delimiter", "quote", "encoding", "header"),
    *("validation_share", "test_share", "split_seed", "limit", "on_bad_row", "max_bad_rows"),
)
READERS = (
    answer_places, arrow_files, audio, columns, conversation, dialect, entity_pairs, hub, layouts, roles_module, seeds,
    sources, split_build, splits, tables, text_encoding, tool_schemas, values,
)  # fmt: skip
"""modules whose code decides what an entry of the cache holds"""


@dataclass(frozen=True)
class RawSplits:
    """Rows as the user wrote them: one memory-mapped data set a split, and what happened on the way."""

    splits: dict[str, datasets.Dataset]
    """columns: text, text_pair (where used), label (JSON: a text, or a list of texts), file, line"""
    report: dict[str, Any]
    fingerprint: str
    """of the files' content, the settings and the code that read them"""


def read_splits(
    settings: DataSettings,
    roles: Sequence[Role],
    *,
    only: Sequence[str] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    offline: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> RawSplits:
    """Reads the splits (all, or `only` some) that the settings name or take from train.

    DataError with all faults of a stage; Stopped when `should_stop()` turns true.
    """
    wanted = [split for split in SPLITS if split in (only or SPLITS)]
    given = given_splits(settings, wanted)
    found = collect({split: partial(find_sources, split, item, settings.format) for split, item in given.items()})
    found = {
        split: [hub.load(source, split, offline) if source.format == "hub" else source for source in listed]
        for split, listed in found.items()
    }
    key_parts = _key_parts(settings, roles, wanted, found)

    def build(folder: Path) -> None:
        SplitBuild(settings, roles, wanted, folder, should_stop).run(found)

    folder = cache.cached("rows", key_parts, build, Path(settings.cache_dir) if settings.cache_dir else None, log,
                          should_stop=should_stop)  # fmt: skip
    return opened(folder, cache.key_of(key_parts))


def opened(folder: Path, fingerprint: str) -> RawSplits:
    """The splits that lie in a cache entry, memory-mapped."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return RawSplits({split: open_arrow(folder / f"{split}.arrow") for split in report["splits"]}, report, fingerprint)


def given_splits(settings: DataSettings, wanted: list[str]) -> dict[str, str | list[str]]:
    """The splits that have to be read: those wanted and named, and train where others are taken from it."""
    named = {split: getattr(settings, split) for split in SPLITS}
    taken = [split for split, share in shares_of(settings).items() if split in wanted and share > 0]
    if named["train"] is None and ("train" in wanted or taken):
        where = "data.train" if "train" in wanted else f"data.{taken[0]}"
        raise DataError(
            Fault(where, "no rows were named", "a path, a glob, a list of them, or a hub name", f"{where}=FILE")
        )
    return {
        split: item
        for split, item in named.items()
        if item is not None and (split in wanted or (split == "train" and taken))
    }


def _key_parts(
    settings: DataSettings, roles: Sequence[Role], wanted: list[str], found: dict[str, list[Any]]
) -> dict[str, Any]:
    plain = dataclasses.asdict(settings)
    content = {split: [(source.shown, content_of(source)) for source in listed] for split, listed in found.items()}
    return {
        "content": content,
        "folders": _folders(found) if any(role.is_path for role in roles) else [],
        "settings": {name: plain[name] for name in READ_SETTINGS},
        "shares": shares_of(settings),
        "roles": [dataclasses.asdict(role) for role in roles],
        "wanted": wanted,
        "code": cache.code_version(
            *READERS, sys.modules[__name__], *layouts.layouts(settings, [role.name for role in roles])
        ),
        "versions": {"pyarrow": pyarrow.__version__},
    }


def _folders(found: dict[str, list[Any]]) -> list[str]:
    """From where the paths that rows name are seen: the same file elsewhere names others."""
    return [str(source.path.absolute()) for listed in found.values() for source in listed if hasattr(source, "path")]


def content_of(source: Any) -> Any:
    """What changes when the rows of a source change."""
    if isinstance(source, hub.HubSplit):
        return source.fingerprint
    with text_encoding.reading(source.shown):
        return _file_shas(source)


def _file_shas(source: sources.Source) -> Any:
    if source.format == "text_folders":
        folders = sources.class_folders(source)
        return [
            (str(path.relative_to(source.path)), cache.file_sha(path))
            for f in folders
            for path in sorted(f.iterdir())
            if path.is_file()
        ]
    if source.format == "speech_folders":
        return speech_folders.content(source)
    if source.beside is not None:
        return [(side.shown, cache.file_sha(side.path)) for side in (source, source.beside)]
    return cache.file_sha(source.path)

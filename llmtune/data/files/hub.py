"""Data sets of the Hugging Face hub: `owner/name`, `hub:owner/name/config`, `owner/name@split`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.core.errors import DataError, Fault, did_you_mean
from llmtune.data.files.sources import Source
from llmtune.data.files.tables import Line, Table

if TYPE_CHECKING:
    import datasets

ALIASES = {"train": ("train",), "validation": ("validation", "dev", "valid", "val"), "test": ("test",)}


@dataclass(frozen=True)
class HubSplit:
    """One split of a hub data set, in the local cache of `datasets`."""

    shown: str
    rows: datasets.Dataset

    @property
    def format(self) -> str:
        return "hub"

    @property
    def fingerprint(self) -> list[Any]:
        return [self.shown, self.rows._fingerprint, len(self.rows)]

    def table(self) -> Table:
        import datasets

        names = list(self.rows.column_names)
        classes = {name: kind for name, kind in self.rows.features.items() if isinstance(kind, datasets.ClassLabel)}

        def stream() -> Iterator[Line]:
            for line, row in enumerate(self.rows, 1):
                # labels are numbers in the file and names in its card; -1 says that a row has none
                named = {
                    name: kind.int2str(row[name]) if (row[name] or 0) >= 0 else None
                    for name, kind in classes.items()
                    if row[name] is not None
                }
                yield self.shown, line, {**row, **named}, None

        return Table(
            self.shown,
            names,
            len(names),
            stream,
            found={"format": "hub"},
            sample=[next(stream())[2]] if len(self.rows) else [],
        )


def load(source: Source, split: str, offline: bool) -> HubSplit:
    """Fetches (or, offline, finds in the cache) the split of a hub data set that serves as `split`; DataError."""
    import datasets

    name, _, chosen = source.shown.partition("@")
    steps = name.split("/")  # owner/name/config; old sets have no owner: hub:imdb
    where = f"data.{split}"
    try:
        found = datasets.load_dataset(
            "/".join(steps[:2]), *steps[2:], download_config=datasets.DownloadConfig(local_files_only=offline)
        )
    except (OSError, ValueError, RuntimeError) as error:
        why = "is not in the local cache, and offline=true" if offline else "can't be loaded from the hub"
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        fix = "offline=false fetches it" if offline else "a path that should be a file or folder does not exist here"
        raise DataError(Fault(where, f"{source.shown!r} {why} ({first})", "", fix)) from error
    wanted = [chosen] if chosen else ALIASES[split]
    match = next((name for name in wanted if name in found), None)
    if match is None:
        names = list(found)
        hint = did_you_mean(wanted[0], names)
        raise DataError(
            Fault(
                where,
                f"{source.shown!r} has no split {wanted[0]!r}",
                f"it has {', '.join(names)}",
                hint or f"{where}={name}@{names[0]}",
            )
        )
    return HubSplit(f"{name}@{match}", found[match])

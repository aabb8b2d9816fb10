"""Rows to tokens: encoded once, cached as Arrow, with a report of what was too long."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmtune.core.errors import DataError, Fault
from llmtune.data import cache
from llmtune.data.files.arrow_files import open_arrow
from llmtune.data.rows import RawSplits
from llmtune.data.tokens import token_rows
from llmtune.data.tokens.token_rows import Encode, Limits, TokenRows, makes_windows

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class EncodedSplits:
    """Tokenised rows: memory-mapped data sets, what the report says of their lengths, and their fingerprint."""

    splits: dict[str, datasets.Dataset]
    """columns: input_ids, length, what else the encoder made, target (where given), and those of the raw rows"""
    report: dict[str, dict[str, Any]]
    fingerprint: str


def encode_splits(
    raw: RawSplits,
    encode: Encode,
    key_parts: dict[str, Any],
    *,
    targets: dict[str, list[Any]] | None = None,
    limits: Limits,
    unknown_id: int | None = None,
    cache_dir: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    log: Callable[[str], None] = lambda line: None,
) -> EncodedSplits:
    """Tokenises all splits, or finds them in the cache without one call of `encode`.

    `key_parts` says all that `encode` depends on (tokenizer files, template, ...). DataError where rows are too
    long for `limits`; Stopped when `should_stop()` turns true.
    """
    if limits.on_overlength == "split" and not (hasattr(encode, "windows") or makes_windows(encode)):
        raise DataError(
            Fault("data.on_overlength", "split, but rows of this task are whole", "truncate, drop or error",
                  "data.on_overlength=truncate")
        )  # fmt: skip
    parts = {
        "rows": raw.fingerprint,
        "encode": key_parts,
        "targets": None if targets is None else hashlib.sha256(json.dumps(targets).encode()).hexdigest(),
        "max_tokens": limits.max_tokens,
        "on_overlength": limits.on_overlength,
        "on_unsupervised": limits.on_unsupervised,
        "unknown_id": unknown_id,
        "code": cache.code_version(sys.modules[__name__], token_rows),
    }

    def build(folder: Path) -> None:
        report = {}
        for split, rows in raw.splits.items():
            own = targets[split] if targets is not None else None
            report[split] = TokenRows(encode, limits, unknown_id, should_stop).write(
                split, rows, own, folder / f"{split}.arrow"
            )
        _refuse(report, limits, limits.on_overlength == "error")
        (folder / "report.json").write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")

    root = Path(cache_dir) if cache_dir else None
    folder = cache.cached("tokens", parts, build, root, log, should_stop=should_stop)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    _refuse(report, limits, limits.on_overlength == "truncate")
    return EncodedSplits(
        {split: open_arrow(folder / f"{split}.arrow") for split in report}, report, cache.key_of(parts)
    )


def _refuse(report: dict[str, dict[str, Any]], limits: Limits, applies: bool) -> None:
    """DataError where more rows are too long than the settings allow."""
    faults = []
    most = limits.max_truncated_share if limits.on_overlength == "truncate" else 0.0
    for split, facts in report.items():
        if not applies or facts["overlength"]["share"] <= most:
            continue
        over, tokens = facts["overlength"], facts["tokens"]
        share = over["share"]
        given = (
            f"{over['rows']} of {facts['rows_encoded']} rows ({share:.1%}) are longer than {limits.max_tokens} tokens"
        )
        seen = f"95 of 100 have at most {tokens['p95']}, the longest {tokens['max']}; {', '.join(over['lines'][:5])}"
        if limits.on_overlength == "error":
            faults.append(
                Fault(f"data.{split}", f"{given} ({seen})", "data.on_overlength=error",
                      "data.on_overlength=truncate or drop")
            )  # fmt: skip
        else:
            enough = min(1.0, np.ceil(share * 100) / 100)
            fix = f"data.max_tokens={tokens['p95']} if the model can, or data.max_truncated_share={enough:g}"
            faults.append(
                Fault(f"data.{split}", f"{given} and would be cut ({seen})", f"data.max_truncated_share={most:g}", fix)
            )
    if faults:
        raise DataError(*faults)



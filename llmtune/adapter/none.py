"""No adapter: the network stays as it was loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from llmtune.core.parts import Parts


@dataclass(frozen=True, kw_only=True)
class NoAdapter:
    name: str
    lr_factor: ClassVar[float] = 1.0
    merges: ClassVar[bool] = True
    stands_alone: ClassVar[bool] = False

    def build(self, parts: Parts | None) -> NoAdapter:
        return self

    def wrap(self, network: Any) -> Any:
        return network

    def terms(self) -> dict[str, Any]:
        return {}

    @contextlib.contextmanager
    def plain(self, network: Any) -> Iterator[Any]:
        yield network

    def save(self, network: Any, folder: Path, base: str | None) -> None:
        """There is nothing besides the network's own weights."""

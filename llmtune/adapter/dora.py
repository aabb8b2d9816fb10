"""DoRA: each weight as a magnitude and a direction, LoRA on the direction (Liu et al., arXiv 2402.09353)."""

from __future__ import annotations

from dataclasses import dataclass

from llmtune.adapter.low_rank import check_low_rank, low_rank_config
from llmtune.adapter.tuner import Tuner, seed_of
from llmtune.core.parts import Parts


@dataclass(frozen=True, kw_only=True)
class Dora:
    name: str
    rank: int
    alpha: float
    dropout: float
    targets: str | list[str]
    lr_factor: float

    def __post_init__(self) -> None:
        check_low_rank(self)

    def build(self, parts: Parts | None) -> Tuner:
        return Tuner(lambda network: low_rank_config(self, network, use_dora=True), seed_of(parts))

"""Rank-stabilised LoRA: scaled by alpha / sqrt(r), for larger ranks (Kalajdzievski, arXiv 2312.03732)."""

from __future__ import annotations

from dataclasses import dataclass

from llmtune.adapter.low_rank import check_low_rank, low_rank_config
from llmtune.adapter.tuner import Tuner, seed_of
from llmtune.core.parts import Parts


@dataclass(frozen=True, kw_only=True)
class RankStabilisedLora:
    name: str
    rank: int
    alpha: float
    dropout: float
    targets: str | list[str]
    lr_factor: float

    def __post_init__(self) -> None:
        check_low_rank(self)

    def build(self, parts: Parts | None) -> Tuner:
        return Tuner(lambda network: low_rank_config(self, network, use_rslora=True), seed_of(parts))

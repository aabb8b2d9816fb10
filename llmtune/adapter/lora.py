"""LoRA: a low-rank change beside each frozen weight, W + alpha / r B A (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

from dataclasses import dataclass

from llmtune.adapter.low_rank import check_low_rank, low_rank_config
from llmtune.adapter.tuner import Tuner, seed_of
from llmtune.core.parts import Parts


@dataclass(frozen=True, kw_only=True)
class Lora:
    name: str
    rank: int
    alpha: float
    dropout: float
    targets: str | list[str]
    lr_factor: float

    def __post_init__(self) -> None:
        check_low_rank(self)

    def build(self, parts: Parts | None) -> Tuner:
        return Tuner(lambda network: low_rank_config(self, network), seed_of(parts))

"""QLoRA: LoRA on a base that is kept in 4 or 8 bits (Dettmers et al., arXiv 2305.14314 and 2208.07339)."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

from llmtune.adapter.low_rank import check_low_rank, low_rank_config
from llmtune.adapter.tuner import QuantisedTuner, has_conv1d, seed_of
from llmtune.core.errors import ConfigError, Fault
from llmtune.core.parts import Parts
from llmtune.core.ranges import one_of


@dataclass(frozen=True, kw_only=True)
class QLora:
    name: str
    bits: int
    format: str
    double: bool
    rank: int
    alpha: float
    dropout: float
    targets: str | list[str]
    lr_factor: float

    def __post_init__(self) -> None:
        one_of("bits", self.bits, (4, 8))
        one_of("format", self.format, ("nf4", "fp4"))
        check_low_rank(self)

    def build(self, parts: Parts | None) -> QuantisedTuner:
        return QuantisedTuner(lambda network: low_rank_config(self, network), seed_of(parts))

    def check(self, prospect: Any) -> None:
        """Raises ConfigError where this machine, or this model, can't keep weights in few bits."""
        from llmtune.hardware.machine import pick_device
        from llmtune.model.projections import linear_modules

        faults = []
        device = pick_device(prospect.config.hardware)
        if device != "cuda":
            faults.append(Fault("adapter", f"qlora keeps the base in {self.bits} bits, on a CUDA GPU; this run is on "
                                f"{device}", "lora trains the same beside a base in fp32",
                                "type adapter=lora"))  # fmt: skip
        elif importlib.util.find_spec("bitsandbytes") is None:
            faults.append(Fault("adapter", "qlora needs the package bitsandbytes, which is not installed", "",
                                "type pip install bitsandbytes"))  # fmt: skip
        if prospect.config.model.path is None:
            faults.append(Fault("adapter", f"qlora with model={prospect.config.model.name}, which has no weights to "
                                "quantise", "a model.path", "type adapter=lora"))  # fmt: skip
        network = prospect.network
        if has_conv1d(network, list(linear_modules(network, network.base_model_prefix))):
            faults.append(Fault("adapter", f"qlora with {network.config.model_type} models, whose linear modules are "
                                "of a kind that is not quantised", "", "type adapter=lora"))  # fmt: skip
        if faults:
            raise ConfigError(*faults)

    def quantisation(self, shape: Any, machine: Any) -> Any:
        """transformers' quantisation_config for a network, given on the meta device; its head is left as it is."""
        import torch
        from transformers import BitsAndBytesConfig

        from llmtune.model.projections import head_modules

        compute = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[machine.precision]
        return BitsAndBytesConfig(
            load_in_4bit=self.bits == 4, load_in_8bit=self.bits == 8, bnb_4bit_quant_type=self.format,
            bnb_4bit_use_double_quant=self.double, bnb_4bit_compute_dtype=compute,
            llm_int8_skip_modules=head_modules(shape, shape.base_model_prefix),
        )  # fmt: skip

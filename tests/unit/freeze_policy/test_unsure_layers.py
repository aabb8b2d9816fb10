"""Where it is not known which modules a model's layers are, nothing goes by them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from llmtune.core.errors import ConfigError
from llmtune.model.layers import LayerMap
from llmtune.model.prefix import lower_stack
from tests.unit.freeze_policy.test_policies import policy, where
from tests.unit.optimizer.test_equations import settings_of

BY_LAYERS = ["top_layers", "bottom_layers", "layers", "gradual", "chain_thaw", "converging"]
OTHERS = ["none", "head_only", "bias_only", "norms_only", "embeddings", "probe_then_tune", "tune_then_probe"]


def prospect() -> Any:
    config = AutoConfig.for_model("perceiver", num_self_attends_per_block=2)
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(config)
    layers = LayerMap.of(model, model.base_model_prefix)
    # the head is its embeddings once more
    layers.places["head.weight"], layers.plain["head.weight"], layers.kinds["head.weight"] = "head", "head", "weight"
    return where(layers, model_config=config, network=model)


def test_policies_that_go_by_layers_are_refused() -> None:
    known = prospect()
    assert "encoder.self_attends (2)" in known.layers.unsure
    assert lower_stack(known.network.base_model) == []
    for option in BY_LAYERS:
        said = rf"{option} goes by layers, and which modules those of perceiver models are .*freeze_policy=pattern"
        with pytest.raises(ConfigError, match=said):
            policy(option).check(known)
    for option in OTHERS:
        part = policy(option)
        if hasattr(part, "check"):
            part.check(known)
        assert part.build(known).trainable(known.layers, 0)
    policy("pattern", trains="self_attends", frozen=None).check(known)


def test_rates_that_fall_from_layer_to_layer_are_refused() -> None:
    known = SimpleNamespace(**vars(prospect()))
    known.config.train = SimpleNamespace(ema=None, swa=None, grad_noise=0, precision="fp32")
    with pytest.raises(ConfigError, match=r"layer_decay.*layers of perceiver models are is not known.*layer_decay=1"):
        settings_of("adamw", layer_decay=0.9).check(known)
    settings_of("adamw", layer_decay=1.0).check(known)

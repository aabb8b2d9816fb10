"""What each freeze policy lets train, in families of every shape, with and without an adapter, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from llmtune.config.locate import conf_dir
from llmtune.config.shelf import find_part
from llmtune.core.errors import ConfigError
from llmtune.model.layers import LayerMap, wrap

BERT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
GPT2 = {"n_embd": 16, "n_layer": 4, "n_head": 2, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2, "vocab_size": 50}
LLAMA = {**BERT, "num_key_value_heads": 1, "bos_token_id": 0, "eos_token_id": 0}
MODELS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "bert": (AutoModelForSequenceClassification, "bert", BERT),
    "gpt2": (AutoModelForCausalLM, "gpt2", GPT2),
    "t5": (AutoModelForSeq2SeqLM, "t5", T5),
    "t5_classifier": (AutoModelForSequenceClassification, "t5", T5),
    "llama": (AutoModelForSequenceClassification, "llama", LLAMA),
}


def network(family: str, **more: Any) -> Any:
    kind, model_type, shape = MODELS[family]
    with torch.device("meta"):
        return kind.from_config(AutoConfig.for_model(model_type, **shape, **more))


def layers_of(model: Any, prefix: str | None = None) -> LayerMap:
    return LayerMap.of(model, prefix or model.base_model_prefix)


def with_lora(model: Any, **settings: Any) -> LayerMap:
    import peft

    config = peft.LoraConfig(r=2, target_modules=["query", "value"], **settings)
    adapter = SimpleNamespace(wrap=lambda network: peft.inject_adapter_in_model(config, network))
    network, added = wrap(adapter, model)
    return LayerMap.of(network, model.base_model_prefix, added)


def policy(option: str, /, **changed: Any) -> Any:
    """The settings of an option as shipped, with some of them changed."""
    import yaml

    values = yaml.safe_load(Path(conf_dir(), "freeze_policy", f"{option}.yaml").read_text(encoding="utf-8"))
    return find_part("freeze_policy", option, [], "freeze_policy.name").load()(**{**values, **changed})


def where(layers: LayerMap, *, adapter: str = "none", **more: Any) -> Any:
    """What a Prospect and Parts tell a freeze policy."""
    known = {
        "layers": layers, "num_steps": 100, "steps_per_epoch": 10, "model_config": SimpleNamespace(model_type="any"),
        "config": SimpleNamespace(
            adapter=SimpleNamespace(name=adapter), train=SimpleNamespace(clip_value=None, grad_noise=0.0)
        ),
    }  # fmt: skip
    return SimpleNamespace(**{**known, **more})


def trained(option: str, layers: LayerMap, step: int = 0, /, **changed: Any) -> set[str]:
    part = policy(option, **changed)
    if hasattr(part, "check"):
        part.check(where(layers))
    return set(part.build(where(layers)).trainable(layers, step))


def matching(layers: LayerMap, pattern: str) -> set[str]:
    return {name for name in layers.places if re.search(pattern, name)}


NORM = {"bert": "LayerNorm", "gpt2": r"ln_\d|ln_f", "t5": "layer_norm"}
HEAD = {"bert": r"pooler|^classifier", "gpt2": "^$", "t5": "^$", "t5_classifier": "^classification_head"}
TOP = {"bert": r"layer\.3\.|pooler|^classifier", "gpt2": r"h\.3\.|ln_f", "t5": r"decoder\.(block\.1|final)"}
TOP_2 = {
    "bert": r"layer\.[23]\.|pooler|^classifier", "gpt2": r"h\.[23]\.|ln_f", "t5": r"^decoder\.(block|final)",
}  # fmt: skip
UP_FROM_1 = {
    "bert": r"layer\.[123]\.|pooler|^classifier", "gpt2": r"h\.[123]\.|ln_f",
    "t5": r"encoder\.(block\.1|final)|^decoder\.",
}  # fmt: skip
NO_EMBEDDINGS = {
    "bert": r"layer\.\d\.|pooler|^classifier", "gpt2": r"h\.\d\.|ln_f", "t5": r"(encoder|decoder)\.",
}  # fmt: skip
SECOND = {"bert": r"layer\.1\.|pooler|^classifier", "gpt2": r"h\.1\.", "t5": r"encoder\.(block\.1|final)"}
GOLDEN: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("none", {}, dict.fromkeys(("bert", "gpt2", "t5"), "")),
    ("head_only", {}, {"bert": HEAD["bert"]}),
    ("bottom_layers", {"layers": 1}, UP_FROM_1),
    ("bottom_layers", {"layers": 0.25}, UP_FROM_1),
    ("bottom_layers", {"layers": 0}, NO_EMBEDDINGS),
    ("top_layers", {"layers": 2}, TOP_2),
    ("top_layers", {"layers": 0.5}, TOP_2),
    ("layers", {"layers": 1}, SECOND),
    ("layers", {"layers": "2-3", "embeddings": False}, TOP_2),
    ("layers", {"layers": [0, "1-3"], "embeddings": True}, dict.fromkeys(("bert", "gpt2", "t5"), "")),
    ("embeddings", {}, NO_EMBEDDINGS),
    ("pattern", {}, NO_EMBEDDINGS),
    ("bias_only", {}, {"bert": rf"bias$|{HEAD['bert']}", "gpt2": "bias$"}),
    ("norms_only", {}, {family: f"{NORM[family]}|{HEAD[family]}" for family in NORM}),
]


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_golden_names(family: str) -> None:
    layers = layers_of(network(family))
    assert layers.num_layers == 4
    for option, changed, expected in GOLDEN:
        if family in expected:
            found = trained(option, layers, **changed)
            assert found == matching(layers, expected[family]), (option, changed)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_gradual_goes_down_from_the_head(family: str) -> None:
    layers = layers_of(network(family))
    top = matching(layers, HEAD[family]) | layers.at("final")
    assert trained("gradual", layers, every="1ep") == top
    assert trained("gradual", layers, 9, every="1ep") == top
    assert trained("gradual", layers, 10, every="1ep") == matching(layers, TOP[family])
    assert trained("gradual", layers, 20, every="1ep") == matching(layers, TOP_2[family])
    assert trained("gradual", layers, 40, every=10) == matching(layers, NO_EMBEDDINGS[family])
    assert trained("gradual", layers, 50, every="auto") == set(layers.places)
    assert trained("gradual", layers, 49, every="auto") == matching(layers, NO_EMBEDDINGS[family])
    assert trained("gradual", layers, 10, every=10, at_once=2) == matching(layers, TOP_2[family])


@pytest.mark.parametrize("family", ["bert", "t5_classifier"])
def test_probe_then_tune(family: str) -> None:
    layers = layers_of(network(family))
    assert trained("probe_then_tune", layers, 19, probe="2ep") == matching(layers, HEAD[family])
    assert trained("probe_then_tune", layers, 20, probe="2ep") == set(layers.places)


def test_a_probe_has_a_learning_rate_of_its_own() -> None:
    layers = layers_of(network("bert"))
    built = policy("probe_then_tune", probe="2ep", probe_lr_factor=30).build(where(layers))
    assert built.lr_stages == ((0, 30), (20, 1))
    assert policy("gradual").build(where(layers)).lr_stages == ((0, 1),)


def test_the_first_quarter_of_a_run_tunes_where_nothing_is_said() -> None:
    layers = layers_of(network("bert"))
    assert trained("tune_then_probe", layers, 24) == set(layers.places)
    assert trained("tune_then_probe", layers, 25) == matching(layers, HEAD["bert"])
    assert trained("tune_then_probe", layers, 25, tune="3ep") == set(layers.places)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_chain_thaw_goes_up_one_place_at_a_time(family: str) -> None:
    layers = layers_of(network(family))
    stages = [layers.at("final", "head"), layers.at("embeddings"), *(layers.at(f"layer {i}") for i in range(4))]
    for number, stage in enumerate(stages):
        assert trained("chain_thaw", layers, 10 * number + 9, every=10) == stage, number
    assert trained("chain_thaw", layers, 60, every=10) == set(layers.places)
    # auto: seven stages of a hundred steps
    assert trained("chain_thaw", layers, 83) == layers.at("layer 3")
    assert trained("chain_thaw", layers, 84) == set(layers.places)


PATTERNS: list[tuple[dict[str, Any], str]] = [
    ({"trains": "head", "frozen": None}, HEAD["bert"]),
    ({"trains": ["layer 3", "classifier"], "frozen": None}, r"layer\.3\.|^classifier"),
    ({"trains": "attention.self", "frozen": None}, r"attention\.self"),
    ({"trains": "layer.1", "frozen": None}, r"layer\.1\."),
    ({"trains": "bert.encoder.layer.1", "frozen": None}, r"layer\.1\."),
    ({"trains": "query|value", "frozen": None}, "query|value"),
    ({"trains": r"layer\.[0-2]\..*weight$", "frozen": "LayerNorm"}, r"layer\.[0-2]\.(?!.*LayerNorm).*weight$"),
    ({"trains": None, "frozen": ["embeddings", r"^bert\.encoder"]}, HEAD["bert"]),
]


@pytest.mark.parametrize(("given", "expected"), PATTERNS)
def test_pattern_takes_places_names_and_expressions(given: dict[str, Any], expected: str) -> None:
    bare = layers_of(network("bert"))
    assert trained("pattern", bare, **given) == matching(bare, expected)
    # the same words in the network that trains, whose names begin with `model.`
    composite = nn.Module()
    composite.model = network("bert")
    inside = layers_of(composite, "model.bert")
    assert trained("pattern", inside, **given) == {f"model.{name}" for name in matching(bare, expected)}


def test_pattern_that_matches_nothing_is_told_with_names_that_are_near() -> None:
    layers = layers_of(network("bert"))
    with pytest.raises(ConfigError) as told:
        policy("pattern", trains=["atention.self", "hed", "layer 9"], frozen=r"\d{7}").check(where(layers))
    lines = str(told.value).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("freeze_policy.trains: 'atention.self' matches no parameter; near it are attention.self")
    assert "head" in lines[1]
    assert "layer 3" in lines[2]
    assert lines[3].startswith(r"freeze_policy.frozen: '\\d{7}' matches no parameter; there are head, embeddings")
    with pytest.raises(ConfigError, match="freezes all that would train"):
        policy("pattern", trains="head", frozen=["head"]).check(where(layers))


WRONG = [
    ("pattern", {"trains": "("}, r"trains: '\(' is no regular expression"),
    ("pattern", {"trains": None, "frozen": []}, "neither it nor frozen is given"),
    ("bottom_layers", {"layers": 1.5}, "no number of layers"),
    ("bottom_layers", {"layers": -0.5}, "too small"),
    ("top_layers", {"layers": -1}, "too small"),
    ("layers", {"layers": "3-1"}, "layers: '3-1' is no layer"),
    ("layers", {"layers": ["x"]}, "layers: 'x' is no layer"),
    ("gradual", {"every": "often"}, "every: 'often' is no period"),
    ("gradual", {"at_once": 0}, "at_once: 0 is too small"),
    ("probe_then_tune", {"probe": 0}, "probe: 0 is no period"),
    ("probe_then_tune", {"probe_lr_factor": 0}, "probe_lr_factor: 0 is too small"),
    ("head_only", {"lr_factor": -1}, "lr_factor: -1 is too small"),
    ("tune_then_probe", {"tune": "x"}, "tune: 'x' is no period"),
    ("chain_thaw", {"every": "1.5"}, "every: '1.5' is no period"),
    ("converging", {"percentile": 101}, "percentile: 101 is out of range"),
    ("converging", {"keep": 0}, "keep: 0 is too small"),
]


@pytest.mark.parametrize(("option", "changed", "message"), WRONG)
def test_settings_out_of_range(option: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(option, **changed)


REFUSED = [
    ("bert", "bottom_layers", {"layers": 5}, "5, but the model has 4 layers"),
    ("bert", "top_layers", {"layers": 5}, "5, but the model has 4 layers"),
    ("bert", "layers", {"layers": "3-5"}, "4, 5, but the model has 4 layers; 0 to 3"),
    ("bert", "adapters_only", {}, r"there is no adapter \(adapter=none\); adapter=lora"),
    ("bert", "converging", {"keep": 5}, "5, but the model has 4 layers"),
    ("gpt2", "head_only", {}, r"its output matrix is tied to the embeddings \(transformer.wte.weight\)"),
    ("gpt2", "probe_then_tune", {}, r"tied to the embeddings \(transformer.wte.weight\)"),
    ("t5", "head_only", {}, r"tied to the embeddings \(shared.weight\)"),
    ("llama", "bias_only", {}, "have no biases; freeze_policy=norms_only"),
    ("t5", "bias_only", {}, "have no biases"),
]


@pytest.mark.parametrize(("family", "option", "changed", "message"), REFUSED)
def test_refused_with_a_reason(family: str, option: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        policy(option, **changed).check(where(layers_of(network(family))))


def test_a_tied_head_stays_with_the_embeddings() -> None:
    layers = layers_of(network("gpt2"))
    assert layers.tied == {"transformer.wte.weight": "head"}
    for option in ("top_layers", "bottom_layers", "embeddings"):
        assert "transformer.wte.weight" not in trained(option, layers)
    assert "transformer.wte.weight" in trained("none", layers)
    assert trained("gradual", layers) == layers.at("final")


LORA = r"lora_|pooler|^classifier"
WITH_ADAPTER: list[tuple[str, dict[str, Any], str]] = [
    ("none", {}, LORA),
    ("adapters_only", {}, LORA),
    ("embeddings", {}, LORA),
    ("bottom_layers", {"layers": 2}, r"layer\.[23].*lora_|pooler|^classifier"),
    ("top_layers", {"layers": 1}, r"layer\.3.*lora_|pooler|^classifier"),
    ("layers", {"layers": "0-1"}, r"layer\.[01]\..*lora_|pooler|^classifier"),
    ("pattern", {"trains": None, "frozen": "query"}, r"value\.lora_|pooler|^classifier"),
    ("pattern", {"trains": ["lora_A", "layer 0"], "frozen": None}, r"lora_A|layer\.0\."),
    ("gradual", {"every": 10}, r"pooler|^classifier"),
    ("probe_then_tune", {}, r"pooler|^classifier"),
]


def test_with_an_adapter_the_base_stays_as_it_is() -> None:
    layers = with_lora(network("bert"))
    assert len(layers.adapters) == 4 * 2 * 2
    for option, changed, expected in WITH_ADAPTER:
        part = policy(option, **changed)
        if hasattr(part, "check"):
            part.check(where(layers, adapter="lora"))
        found = part.build(where(layers)).trainable(layers, 0)
        assert found == matching(layers, expected), (option, changed)
    for option in ("gradual", "probe_then_tune", "chain_thaw"):
        part = policy(option).build(where(layers))
        assert part.trainable(layers, 10**6) == matching(layers, LORA)


@pytest.mark.parametrize(
    ("option", "changed", "more", "message"),
    [
        ("bias_only", {}, {}, r"bias_only trains the model's own biases, while an adapter \(lora\) keeps"),
        ("norms_only", {}, {}, r"norms_only trains the model's own norms, while an adapter \(lora\) keeps"),
        ("head_only", {}, {}, r"head_only never trains the adapter \(lora\); freeze_policy=none"),
        ("bottom_layers", {"layers": 4}, {}, "bottom_layers never trains the adapter"),
        ("gradual", {"every": "20ep"}, {}, "gradual never trains the adapter"),
        ("probe_then_tune", {"probe": 200}, {}, "probe_then_tune never trains the adapter"),
        ("layers", {"layers": 3}, {"layers_to_transform": [0]}, "layers never trains the adapter"),
        ("pattern", {"trains": "head", "frozen": None}, {}, "pattern never trains the adapter"),
    ],
)
def test_a_policy_that_contradicts_the_adapter_is_refused(
    option: str, changed: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    layers = with_lora(network("bert"), **more)
    with pytest.raises(ConfigError, match=message):
        policy(option, **changed).check(where(layers, adapter="lora"))


def test_gradients_that_are_changed_can_not_be_measured() -> None:
    prospect = where(layers_of(network("bert")))
    prospect.config.train = SimpleNamespace(clip_value=0.1, grad_noise=0.3)
    with pytest.raises(ConfigError, match=r"(?s)train\.clip_value: 0\.1.*train\.grad_noise: 0\.3"):
        policy("converging").check(prospect)

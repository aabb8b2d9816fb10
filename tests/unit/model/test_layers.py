"""LayerMap over families, peft's wrappers, tied tensors, and what objectives bring."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
)

from llmtune.model.layers import LayerMap, wrap

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
"""said by peft's own wrapper"""
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
BART = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 50, "pad_token_id": 1}  # fmt: skip
IDS = {"bos_token_id": 0, "eos_token_id": 0}


def meta(kind: Any, model_type: str, **shape: Any) -> Any:
    with torch.device("meta"):
        return kind.from_config(AutoConfig.for_model(model_type, **shape))


def bert() -> Any:
    return meta(AutoModelForSequenceClassification, "bert", **BERT)


def read(model: Any) -> LayerMap:
    layers = LayerMap.of(model, model.base_model_prefix)
    assert set(layers.places) == {name for name, _ in model.named_parameters()}
    return layers


@pytest.mark.parametrize("family", ["bart", "mbart"])
def test_an_encoder_decoder_counts_its_encoder_first(family: str) -> None:
    layers = read(meta(AutoModelForSeq2SeqLM, family, **BART))
    assert layers.num_layers == 5
    for name, place in layers.places.items():
        if "encoder.layers." in name:
            assert place == f"layer {name.split('.')[3]}"
        elif "decoder.layers." in name:
            assert place == f"layer {2 + int(name.split('.')[3])}"
    assert "model.shared.weight" in layers.at("embeddings")
    assert layers.tied == {"model.shared.weight": "head"}
    last_norms = {name for name in layers.places if ".encoder.layer_norm" in name}
    assert bool(last_norms) == (family == "mbart")
    assert last_norms <= layers.at("layer 1")
    assert {name for name in layers.places if ".decoder.layer_norm." in name} == layers.at("final")


def test_t5_whose_backbone_is_the_model_itself() -> None:
    layers = read(meta(AutoModelForSeq2SeqLM, "t5", d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
                       vocab_size=50))  # fmt: skip
    assert layers.at("embeddings") == {"shared.weight"}
    assert layers.tied == {"shared.weight": "head"}
    assert layers.at("final") == {"decoder.final_layer_norm.weight"}
    assert "encoder.final_layer_norm.weight" in layers.at("layer 1")
    assert "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight" in layers.at("layer 0")
    assert {"encoder.dropout", "decoder.dropout"} <= layers.beside
    assert "" not in layers.beside


def test_a_tied_tensor_has_one_place() -> None:
    layers = read(meta(AutoModelForMaskedLM, "bert", **BERT))
    assert layers.tied == {"bert.embeddings.word_embeddings.weight": "head"}
    assert all(name.startswith("cls.predictions.") for name in layers.at("head"))
    untied = read(meta(AutoModelForCausalLM, "gpt2", n_embd=16, n_layer=1, n_head=2, vocab_size=50,
                       tie_word_embeddings=False, **IDS))  # fmt: skip
    assert untied.tied == {}
    assert untied.at("head") == {"lm_head.weight"}


def test_bottlenecks_of_a_family_are_no_adapter() -> None:
    layers = read(meta(AutoModelForSequenceClassification, "mobilebert", num_hidden_layers=1))
    assert any("bottleneck" in name for name in layers.places)
    assert layers.adapters == frozenset()
    assert layers.everything == set(layers.places)


LINEAR = {"task_type": "SEQ_CLS", "r": 2, "target_modules": ["query", "value"]}
TUNERS: dict[str, tuple[Any, str]] = {
    "lora": (lambda: peft.LoraConfig(**LINEAR), "query.lora_A.default.weight"),
    "dora": (lambda: peft.LoraConfig(**LINEAR, use_dora=True), "query.lora_magnitude_vector.default.weight"),
    "adalora": (lambda: peft.AdaLoraConfig(task_type="SEQ_CLS", init_r=2, target_r=1, total_step=9,
                                           target_modules=["query"]), "query.lora_E.default"),
    "ia3": (lambda: peft.IA3Config(task_type="SEQ_CLS"), "key.ia3_l.default"),
}  # fmt: skip


def adapted(make: Callable[[Any], Any], model: Any) -> tuple[Any, frozenset[str]]:
    return wrap(SimpleNamespace(wrap=make), model)


@pytest.mark.parametrize("tuner", TUNERS)
@pytest.mark.parametrize("wrapped", [True, False])
def test_looks_through_peft(tuner: str, wrapped: bool) -> None:
    make, tail = TUNERS[tuner]
    bare = read(bert())
    if wrapped:
        model, added = adapted(lambda model: peft.get_peft_model(model, make()), bert())
    else:
        model, added = adapted(lambda model: peft.inject_adapter_in_model(make(), model), bert())
    composite = nn.Module()
    composite.model = model
    composite.own = nn.ModuleDict({"prefix_lm": nn.Linear(2, 2)})
    layers = LayerMap.of(composite, "model.bert", {f"model.{name}" for name in added})
    assert layers.num_layers == 2
    own = {"own.prefix_lm.weight", "own.prefix_lm.bias"}
    assert layers.own == own
    base = {layers.plain[name]: (layers.places[name], layers.kinds[name])
            for name in layers.places if name not in layers.adapters | own}  # fmt: skip
    assert base == {name: (bare.places[name], bare.kinds[name]) for name in bare.places}
    adapter = {layers.plain[name]: layers.places[name] for name in layers.adapters}
    assert {place for name, place in adapter.items() if ".layer.1." in name} == {"layer 1"}
    assert f"bert.encoder.layer.0.attention.self.{tail}" in adapter
    # peft would let AdaLoRA's count of ranks train
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad and "ranknum" not in name}
    head = {name for name in layers.at("head") if "original_module" not in name}
    assert layers.everything == {f"model.{name}" for name in trains} | head
    assert {name.rpartition("self.")[2] for name in layers.fixed} <= {"query.ranknum.default"}


def test_tokens_in_front_stand_at_the_embeddings_and_saved_modules_train() -> None:
    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    model, added = adapted(lambda model: peft.get_peft_model(model, config), bert())
    layers = LayerMap.of(model, "bert", added)
    assert layers.adapters == {"prompt_encoder.default.embedding.weight"} <= layers.at("embeddings")
    assert layers.own == frozenset()
    assert layers.tied == {}
    saved = peft.LoraConfig(**LINEAR, modules_to_save=["classifier", "word_embeddings"])
    model, added = adapted(lambda model: peft.get_peft_model(model, saved), bert())
    layers = LayerMap.of(model, "bert", added)
    kinds = {layers.plain[name]: layers.kinds[name] for name in layers.everything & layers.at("embeddings", "head")}
    assert kinds == {
        "bert.embeddings.word_embeddings.weight": "adapter", "classifier.weight": "weight", "classifier.bias": "bias",
        "bert.pooler.dense.weight": "weight", "bert.pooler.dense.bias": "bias",
    }  # fmt: skip
    assert not any("original_module" in name for name in layers.places)


def test_weights_in_integers_never_train() -> None:
    model = bert()
    query = model.bert.encoder.layer[0].attention.self.query
    query.weight = nn.Parameter(torch.zeros(16, 8, dtype=torch.uint8), requires_grad=False)
    layers = read(model)
    assert layers.fixed == {"bert.encoder.layer.0.attention.self.query.weight"} <= layers.at("layer 0")
    assert layers.fixed.isdisjoint(layers.everything)


@pytest.mark.parametrize("stable", [True, False])
def test_what_makes_frames_of_sound_stands_below_the_layers(stable: bool) -> None:
    config = AutoConfig.for_model(
        "wav2vec2", hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=10,
        conv_dim=[8, 8], conv_kernel=[10, 4], conv_stride=[5, 4], num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, do_stable_layer_norm=stable, feat_extract_norm="layer" if stable else "group",
    )  # fmt: skip
    found = LayerMap.of(AutoModelForCTC.from_config(config), "wav2vec2")
    assert found.num_layers == 2
    for name, place in found.places.items():
        below = any(word in name for word in ("feature_extractor", "feature_projection", "pos_conv", "masked_spec"))
        assert (place == "embeddings") == (below or (not stable and ".encoder.layer_norm" in name)), name
    assert found.places["wav2vec2.encoder.layers.1.final_layer_norm.bias"] == "layer 1"
    assert found.places["wav2vec2.encoder.layer_norm.weight"] == ("final" if stable else "embeddings")
    assert found.places["lm_head.weight"] == "head"


def test_whisper_counts_its_encoder_first() -> None:
    config = AutoConfig.for_model(
        "whisper", vocab_size=40, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=8, max_source_positions=50,
        max_target_positions=16, pad_token_id=0,
    )  # fmt: skip
    found = LayerMap.of(AutoModelForSpeechSeq2Seq.from_config(config), "model").places
    expected = {
        "encoder.conv1.weight": "embeddings", "encoder.conv2.bias": "embeddings",
        "encoder.embed_positions.weight": "embeddings", "encoder.layers.1.fc1.weight": "layer 1",
        "encoder.layer_norm.weight": "layer 1", "decoder.embed_tokens.weight": "embeddings",
        "decoder.layers.0.encoder_attn.q_proj.weight": "layer 2", "decoder.layer_norm.bias": "final",
    }  # fmt: skip
    assert {name: found[f"model.{name}"] for name in expected} == expected

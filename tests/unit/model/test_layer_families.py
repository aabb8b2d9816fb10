"""The layers of every family of transformers that can be made without weights: as many as its config says, and each
parameter has a place."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig
from transformers.models.auto import modeling_auto as auto

from llmtune.model.layers import LayerMap

pytestmark = pytest.mark.filterwarnings("ignore")
"""families warn of their own defaults"""
KINDS = {
    "SEQUENCE_CLASSIFICATION": auto.AutoModelForSequenceClassification, "CAUSAL_LM": auto.AutoModelForCausalLM,
    "SEQ_TO_SEQ_CAUSAL_LM": auto.AutoModelForSeq2SeqLM, "TOKEN_CLASSIFICATION": auto.AutoModelForTokenClassification,
    "MASKED_LM": auto.AutoModelForMaskedLM, "QUESTION_ANSWERING": auto.AutoModelForQuestionAnswering,
    "CTC": auto.AutoModelForCTC, "SPEECH_SEQ_2_SEQ": auto.AutoModelForSpeechSeq2Seq,
}  # fmt: skip
FAMILIES = {
    family: kind for word, kind in reversed(KINDS.items())
    for family in getattr(auto, f"MODEL_FOR_{word}_MAPPING_NAMES")
}  # fmt: skip
FEW = {
    "num_hidden_layers": 3, "n_layer": 3, "n_layers": 3, "num_layers": 3, "encoder_layers": 3, "decoder_layers": 2,
    "num_decoder_layers": 2,
}  # fmt: skip
SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff"), 64),
    **dict.fromkeys(("vocab_size", "n_words"), 64), "num_attention_heads": 4, "n_head": 4, "n_heads": 4,
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_key_value_heads"), 4), "head_dim": 8,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 16),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
}  # fmt: skip
UNSURE = {"hrm_text", "lxmert", "perceiver"}
"""whose configs don't count their layers: LXMERT has several kinds of them, the others go through theirs again"""
LISTS_ABOVE = {"canine", "gemma3n_text"}
"""which have a layer of characters, or projections of several streams, above their layers"""
KNOWN = {
    "xlm": 3, "flaubert": 3, "gemma3n_text": 35, "jamba": 3, "zamba2": 54, "canine": 3, "opt": 3, "deberta-v2": 3,
    "lfm2": 3, "ctrl": 3, "albert": 1, "funnel": 12, "bert": 3, "gpt2": 3, "llama": 3, "t5": 5, "bart": 5,
    "nemotron_h": 4, "speecht5": 5, "gemma3": 26,
}  # fmt: skip


def made(family: str) -> Any:
    """Without weights: small, or of the size and with few layers, or as a family is by itself."""
    for words in (FEW | SMALL, FEW, {}):
        with contextlib.suppress(Exception), torch.device("meta"):  # sizes that don't go together, missing libraries
            usual = vars(AutoConfig.for_model(family))
            known = {key: words[key] for key in words.keys() & usual if usual[key] is not None or key[-2:] != "id"}
            return FAMILIES[family].from_config(AutoConfig.for_model(family, **known))
    return pytest.skip("can't be made of its default config")


def told(config: Any, model: Any) -> int:
    """Layers by the config."""
    inner = {key: getattr(config, key, None) for key in config.sub_configs}
    if inner.get("text_config") is not None:
        return told(inner["text_config"], model)
    if hasattr(config, "num_hidden_groups"):
        return config.num_hidden_groups
    pair = [inner.get(key) or inner.get(f"{key}_config") for key in ("encoder", "global", "decoder")]
    if any(pair):
        own = config.num_hidden_layers if getattr(config, "num_hidden_layers", 0) else 0
        return own + sum(told(each, model) for each in pair if each)
    encoder = first(config, "encoder_layers", "num_encoder_layers", "encoder_num_hidden_layers", "num_hidden_layers")
    decoder = first(config, "decoder_layers", "num_decoder_layers", "decoder_num_hidden_layers")
    if config.is_encoder_decoder:
        return encoder + decoder
    alone = decoder and any(".decoder." in f".{name}" for name, _ in model.named_parameters())
    return decoder if alone else first(config, "num_layers", "num_hidden_layers")


def first(config: Any, *keys: str) -> int:
    return next((getattr(config, key) for key in keys if getattr(config, key, None)), 0)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_has_the_layers_that_its_config_says(family: str) -> None:
    model = made(family)
    layers = LayerMap.of(model, model.base_model_prefix)
    assert set(layers.places) == {name for name, _ in model.named_parameters()}
    assert layers.adapters == frozenset()
    assert bool(layers.unsure) == (family in UNSURE), layers.unsure
    if layers.unsure:
        return
    assert layers.num_layers == KNOWN.get(family, told(model.config, model))
    for number in range(layers.num_layers):
        own = layers.at(f"layer {number}")
        assert own
        # Funnel's blocks are numbered anew, an encoder's last norm and DeBERTa's convolution go with a layer
        strange = [name for name in own if not re.search(r"\.\d+\.", name)]
        assert all("norm" in name or ".encoder.conv." in name for name in strange)
    above = [name for name in layers.at("final") if re.search(r"\.\d+\.", name)]
    assert not above or family in LISTS_ABOVE
    tables = {id(module.weight) for module in model.base_model.modules() if isinstance(module, nn.Embedding)}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in tables}
    assert {name for name in names if not re.search(r"\.\d+\.", name)} <= layers.at("embeddings")

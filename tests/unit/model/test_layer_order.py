"""Places stand in the order in which a forward pass comes through them, in families whose modules are made, named or
listed in a way of their own."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.models.auto import modeling_auto as auto

from llmtune.model.layers import LayerMap
from llmtune.model.prefix import lower_stack

Causal, Ctc, Seq2Seq = auto.AutoModelForCausalLM, auto.AutoModelForCTC, auto.AutoModelForSeq2SeqLM
Classes, Tokens = auto.AutoModelForSequenceClassification, auto.AutoModelForTokenClassification
pytestmark = pytest.mark.filterwarnings("ignore")
IDS = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2}
H = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, **IDS}
K = {**H, "num_key_value_heads": 4}
SMALL = {**H, "num_key_value_heads": 2, "head_dim": 8}
TWO = {
    "d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_start_token_id": 0,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, **IDS,
}  # fmt: skip
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4,
      "decoder_start_token_id": 0, **IDS}  # fmt: skip
XLM = {"emb_dim": 32, "n_layers": 3, "n_heads": 4, "n_words": 64}
MAMBA = {"mamba_n_heads": 2, "mamba_d_head": 32, "mamba_n_groups": 1, "mamba_d_state": 4}
OPT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 64, "word_embed_proj_dim": 8,
       **IDS}  # fmt: skip
FUNNEL = {"d_model": 32, "num_decoder_layers": 2, "n_head": 4, "d_head": 8, "d_inner": 64, "vocab_size": 64}
SOUND = {**H, "num_hidden_layers": 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
         "conv_depthwise_kernel_size": 3, "feat_extract_norm": "layer"}  # fmt: skip
PICTURES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
            "image_size": 32, "patch_size": 16}  # fmt: skip
"""as many layers as the text model has"""
GEMMA3N = {
    **SMALL, "intermediate_size": [64] * 3, "vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 3, "laurel_rank": 4,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
CASES: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "xlm": (Classes, 3, XLM), "flaubert": (Classes, 3, XLM),
    "gemma3n_text": (Causal, 3, GEMMA3N),
    "gemma4_text": (Causal, 3, {**SMALL, "vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8,
                                "num_kv_shared_layers": 0, "global_head_dim": 8}),
    "gemma3": (Classes, 3, {"text_config": SMALL, "vision_config": PICTURES, "mm_tokens_per_image": 4}),
    "jamba": (Causal, 3, {**K, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
                          "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 4}),
    "zamba2": (Causal, 3, {**K, "mamba_d_state": 4, "n_mamba_heads": 2, "mamba_headdim": 32, "mamba_ngroups": 1,
                           "num_mem_blocks": 1, "layers_block_type": ["mamba", "hybrid", "mamba"], "adapter_rank": 4,
                           "hybrid_layer_ids": [1], "use_shared_mlp_adapter": True}),
    "bamba": (Causal, 3, {**K, **MAMBA, "attn_layer_indices": [1]}),
    "granitemoehybrid": (Causal, 3, {**K, **MAMBA, "layer_types": ["mamba", "attention", "mamba"]}),
    "canine": (Classes, 3, H), "canine of 1": (Classes, 1, {**H, "num_hidden_layers": 1}),
    "opt": (Causal, 3, OPT), "opt of 350m": (Classes, 3, {**OPT, "do_layer_norm_before": False}),
    "deberta-v2": (Classes, 3, {**H, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16,
                                "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3}),
    "lfm2": (Causal, 3, K), "ctrl": (Causal, 3, {"n_embd": 32, "n_layer": 3, "n_head": 4, "dff": 64, **IDS}),
    "esm": (Classes, 3, {**H, "mask_token_id": 1, "position_embedding_type": "rotary", "emb_layer_norm_before": True}),
    "xlm-roberta-xl": (Classes, 3, H), "megatron-bert": (Classes, 3, H), "roberta-prelayernorm": (Classes, 3, H),
    "mpnet": (Classes, 3, H), "luke": (Classes, 3, {**H, "entity_vocab_size": 10}),
    "xmod": (Classes, 3, {**H, "languages": ["en_XX"], "default_language": "en_XX", "adapter_layer_norm": True}),
    "layoutlmv3": (Classes, 3, {**H, "coordinate_size": 6, "shape_size": 4, "input_size": 32, "patch_size": 16}),
    "albert": (Classes, 2, {**H, "embedding_size": 16, "num_hidden_layers": 4, "num_hidden_groups": 2}),
    "funnel": (Tokens, 8, {**FUNNEL, "block_sizes": [2, 2, 2]}),
    "funnel of 4": (Classes, 4, {**FUNNEL, "block_sizes": [1, 2, 1], "block_repeats": [1, 2, 1]}),
    "bart": (Seq2Seq, 5, TWO), "mbart": (Seq2Seq, 5, TWO), "bigbird_pegasus": (Seq2Seq, 5, TWO),
    "bart alone": (Causal, 2, TWO), "t5": (Seq2Seq, 5, T5), "t5 alone": (Tokens, 3, T5),
    "fsmt": (Seq2Seq, 5, {**TWO, "langs": ["en", "de"], "src_vocab_size": 64, "tgt_vocab_size": 64}),
    "t5gemma": (Seq2Seq, 6, {"encoder": {**SMALL, "layer_types": ["full_attention"] * 3}, "vocab_size": 64,
                             "decoder": {**SMALL, "layer_types": ["full_attention"] * 3,
                                         "cross_attention_hidden_size": 32}}),
    "wav2vec2": (Ctc, 7, {**SOUND, "do_stable_layer_norm": True}), "wav2vec2 of base": (Ctc, 7, SOUND),
    "wav2vec2-conformer": (Ctc, 7, SOUND), "sew": (Ctc, 7, SOUND),
}  # fmt: skip
SPREAD = {"xlm", "flaubert"}
"""whose layers are several modules each"""


def made(case: str) -> Any:
    kind, _, shape = CASES[case]
    family = case.split(" ", maxsplit=1)[0]
    try:
        config = AutoConfig.for_model(family, **shape)
    except ValueError:
        pytest.skip("not in this version of transformers")
    config.use_cache = False
    return kind.from_config(config).eval()


def run(model: Any) -> None:
    ids_BT = torch.tensor([[5, 9, 11, 23, 41, 8, 7, 2] * (4 if "canine" in model.config.model_type else 1)])
    view = {"input_ids": ids_BT}
    if model.main_input_name == "input_values":
        view = {"input_values": torch.linspace(-1, 1, 4000)[None]}
    if model.config.is_encoder_decoder:
        view["decoder_input_ids"] = ids_BT
    with torch.no_grad():
        model(**view)


def passes_of(model: Any, layers: LayerMap) -> list[tuple[str, str]]:
    """(name of a parameter, its place), as its module is run."""
    seen: list[tuple[str, str]] = []
    for path, module in model.named_modules():
        held = [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
        known = [(name, layers.places[name]) for name in held if name in layers.places]
        if known:
            module.register_forward_pre_hook(lambda module, args, known=known: seen.extend(known))
    run(model)
    return seen


@pytest.mark.parametrize("case", CASES)
def test_places_stand_in_the_order_of_the_forward_pass(case: str) -> None:
    model = made(case)
    layers = LayerMap.of(model, model.base_model_prefix)
    assert layers.unsure is None
    assert layers.num_layers == CASES[case][1]
    seen = passes_of(model, layers)
    at = {place: [step for step, (_, there) in enumerate(seen) if there == place] for place in layers.order}
    inside = [at[f"layer {number}"] for number in range(layers.num_layers)]
    assert all(inside)
    if case != "zamba2":  # whose layers share one block, which stands at the lowest of them
        assert all(lower[-1] < upper[0] for lower, upper in itertools.pairwise(inside))
    first, last = inside[0][0], inside[-1][-1]
    late = {seen[step][0] for step in at["embeddings"] if step > first}
    assert {name for name in late if not (model.config.is_encoder_decoder and ".decoder." in f".{name}")} == set()
    assert {seen[step][0] for place in ("final", "head") for step in at[place] if step < last} == set()
    lowest = lower_stack(model.base_model)
    assert bool(lowest) == (case not in SPREAD)
    for number, module in enumerate(lowest):
        own = {id(parameter) for parameter in module.parameters()}
        names = {name for name, parameter in model.named_parameters() if id(parameter) in own}
        assert {layers.places[name] for name in names} <= {f"layer {low}" for low in range(number + 1)}

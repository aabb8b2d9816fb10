"""The frozen bottom of a model is passed over where that is exact, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from llmtune.model.layers import LayerMap
from llmtune.model.prefix import Prefix, frozen_depth, lower_stack

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
DECODER = {**SMALL, "num_key_value_heads": 1, "head_dim": 8}
RELATIVE = {**SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16}
BOTH = {"d_model": 16, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}  # fmt: skip
EXACT: dict[str, dict[str, Any]] = {
    "bert": SMALL, "roberta": SMALL, "electra": {**SMALL, "embedding_size": 8}, "mpnet": SMALL,
    "distilbert": {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32},
    "deberta-v2": {**RELATIVE, "norm_rel_ebd": "layer_norm", "share_att_key": True},
    "modernbert": {**SMALL, "global_attn_every_n_layers": 2, "cls_token_id": 3, "sep_token_id": 2},
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2}, "llama": DECODER, "qwen3": DECODER, "gemma2": DECODER,
    "bart": BOTH, "mbart": BOTH,
}  # fmt: skip
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "t5": ({"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2, "decoder_start_token_id": 1},
           "hand on more than hidden states"),
    "xlnet": ({"d_model": 16, "n_layer": 3, "n_head": 2, "d_inner": 32}, "need more of the lower ones"),
    "longformer": ({**SMALL, "attention_window": 4}, r"see rows of \(3, 9\) tokens as \(3, 12, 16\)"),
    "fnet": (SMALL, "need more of the lower ones"),
}  # fmt: skip
WHY_REFUSED = """T5 makes the positions' bias in its first layer and hands it on; XLNet's classifier reads the last
position, padded or not; Longformer pads rows itself; FNet mixes padded positions into the others."""


def make(family: str, shape: dict[str, Any]) -> nn.Module:
    ids = {"vocab_size": 60, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, num_labels=3, **{**ids, **shape})
    return AutoModelForSequenceClassification.from_config(config)


def rows() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids_BT, mask_BT = torch.randint(3, 60, (3, 9), generator=generator), torch.ones(3, 9, dtype=torch.long)
    for row, length in enumerate((9, 6, 4)):
        ids_BT[row, length - 1], ids_BT[row, length:], mask_BT[row, length:] = 2, 1, 0
    return {"input_ids": ids_BT, "attention_mask": mask_BT}


@pytest.mark.parametrize("family", EXACT)
def test_upper_layers_train_the_same_without_the_prefix(family: str) -> None:
    """Logits and gradients, to the bit, at every depth, with dropout in the upper layers."""
    model, view = make(family, EXACT[family]), rows()
    stack = lower_stack(model.base_model)
    assert len(stack) == 3
    for depth in (1, 2, 3):
        freeze(model, depth)
        prefix = Prefix(model, depth, view)
        kept: list[torch.Tensor] = []

        def merge(hidden_BTD: torch.Tensor, kept: list[torch.Tensor] = kept) -> torch.Tensor:
            kept.append(hidden_BTD)
            return hidden_BTD

        with prefix.recording(merge):
            expected = gradients(model, view)
        assert kept[0].shape == (3, 9, prefix.width)
        assert not kept[0].requires_grad
        calls = [count_calls(module) for module in prefix.layers]
        with prefix.passing(kept[0].clone()):
            found = gradients(model, view)
        assert expected.keys() == found.keys()
        assert len(expected) > 2
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        assert "forward" not in {key for module in model.modules() for key in vars(module)}
        assert not any(calls)


def freeze(model: nn.Module, depth: int) -> None:
    layers = LayerMap.of(model, model.base_model_prefix)  # type: ignore[arg-type]
    model.train()
    frozen = layers.at("embeddings", *(f"layer {number}" for number in range(depth)))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    for path, module in model.named_modules():
        inside = {name for name in layers.places if name.startswith(f"{path}.")}
        if path and (path in layers.beside or (inside and inside <= frozen)):
            module.training = False
        if any(path.startswith(prefix) for prefix in {name.rpartition(".")[0] for name in frozen}):
            module.training = False
    for module in lower_stack(model.base_model)[:depth]:
        module.eval()


def gradients(model: nn.Module, view: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(5)
    logits_BC = model(**view).logits
    logits_BC.square().sum().backward()
    return {"logits": logits_BC.detach()} | {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def count_calls(layer: nn.Module) -> list[int]:
    """Grows whenever a linear map inside of the layer runs."""
    calls: list[int] = []
    inner = next(module for module in layer.modules() if next(module.children(), None) is None)
    inner.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("family", REFUSED)
def test_families_that_need_more_are_refused_with_the_reason(family: str) -> None:
    shape, why = REFUSED[family]
    model = make(family, shape).requires_grad_(False)
    with pytest.raises(ValueError, match=why):
        Prefix(model, 2, rows())


def test_a_prefix_that_trains_is_refused() -> None:
    model = make("bert", SMALL)
    freeze(model, 2)
    model.bert.encoder.layer[0].output.LayerNorm.bias.requires_grad_(True)
    with pytest.raises(ValueError, match="use something that trains"):
        Prefix(model, 2, rows())


def test_depth_is_counted_from_the_bottom() -> None:
    model = make("bert", SMALL)
    layers = LayerMap.of(model, "bert")
    depth = {
        places: frozen_depth(layers, layers.trainable_at(*places), 3)
        for places in (("head",), ("layer 2", "head"), ("layer 0", "head"), ("layer 1",), ("embeddings", "head"))
    }
    assert list(depth.values()) == [3, 2, 0, 1, 0]


def test_depth_of_an_encoder_decoder_ends_with_the_encoder() -> None:
    model = make("bart", BOTH)
    layers = LayerMap.of(model, model.base_model_prefix)  # type: ignore[arg-type]
    assert layers.num_layers == 5
    assert frozen_depth(layers, layers.trainable_at("head"), len(lower_stack(model.base_model))) == 3

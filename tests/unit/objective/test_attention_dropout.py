"""Attention is learnt undropped: what is switched off, in which families, and a perfect student has no loss."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from llmtune.model.trunk import Trunk
from llmtune.objective.attention_dropout import can_stop, drops_attention, stop_dropping_attention
from llmtune.objective.distilling import DistillationLoss, matching_of
from llmtune.objective.layer_pairs import stack_pairs
from llmtune.objective.live_teacher import LiveTeacher
from llmtune.objective.matching import Matching
from tests.unit.objective.small import batch_of, network_of, settings_of

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
ENCODERS = ("bert", "roberta", "electra", "albert", "mpnet", "distilbert", "deberta-v2", "modernbert", "convbert")
DECODERS = ("gpt2", "llama", "qwen3", "opt", "gpt_neox", "phi")
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "opt": {**SMALL, "ffn_dim": 32, "word_embed_proj_dim": 16},
    "llama": {**SMALL, "num_key_value_heads": 2}, "qwen3": {**SMALL, "num_key_value_heads": 2, "head_dim": 8},
    "phi": {**SMALL, "num_key_value_heads": 2, "partial_rotary_factor": 0.5},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.5},
    "bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
}  # fmt: skip
NAMES = ("attention_probs_dropout_prob", "attn_pdrop", "attention_dropout")


@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS, "t5", "bart"])
def test_families_stop_dropping_attention(family: str) -> None:
    shape = SHAPES.get(family, SMALL)
    config = AutoConfig.for_model(family, **shape, vocab_size=40, pad_token_id=0, bos_token_id=1, eos_token_id=1)
    for name in NAMES:
        if hasattr(config, name):
            setattr(config, name, 0.5)
    torch.manual_seed(0)
    model = AutoModel.from_config(config, attn_implementation="eager").train()
    ids = torch.randint(2, 40, (2, 24))
    more = {"decoder_input_ids": ids} if config.is_encoder_decoder else {}

    def dropped() -> int:
        """Weights of exactly 0, but for what a decoder hides: later tokens."""
        output = model(input_ids=ids, output_attentions=True, **more)
        kinds = ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions")
        found = [each for kind in kinds for each in getattr(output, kind, None) or ()]
        assert found
        return sum(int((each.tril() == 0).sum() - (torch.ones_like(each).tril() == 0).sum()) for each in found)

    assert can_stop(model)
    assert drops_attention(model)
    assert dropped() > 0
    stop_dropping_attention(model)
    assert not drops_attention(model)
    assert dropped() == 0
    kept = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout) and module.p > 0}
    if family in ("bert", "gpt2"):
        assert {name.rpartition(".")[2] for name in kept} >= {"bert": {"dropout"}, "gpt2": {"resid_dropout"}}[family]


def test_a_perfect_student_has_nothing_to_learn() -> None:
    network, other = network_of("bert", dropout=0.5), network_of("bert")
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout) and "Self" not in type(module).__name__:
            module.p = 0.0  # of hidden states: another dropout, which makes another student
    for layer in network.bert.encoder.layer:
        layer.attention.self.dropout.p = 0.5
    for model in (network, other):
        model.set_attn_implementation("eager")
    settings = settings_of("distillation", answers=0, attentions=1.0)
    said: list[str] = []
    parts: Any = SimpleNamespace(
        network=network, config=SimpleNamespace(seed=0), console=SimpleNamespace(say=said.append)
    )
    live, batch = LiveTeacher(other.eval(), settings.wants, None), batch_of()

    def loss(matching: Matching) -> float:
        part = DistillationLoss(lambda step: 1.0, settings, None, (matching, None), live)
        return part.loss(Trunk(network, part.wants), batch).total.item()

    pairs = stack_pairs("uniform", network.config, other.config)
    assert loss(Matching(pairs, student_width=16, teacher_width=16, seed=0)) > 0.1
    assert loss(matching_of(settings, parts, other.config)) == pytest.approx(0, abs=1e-6)
    assert said == ["distillation: attention is learnt, so the student's drops no weights (other dropout stays)"]
    matching_of(settings, parts, other.config)
    assert len(said) == 1

"""Rows of new tokens: they train beside a table that stays, serve wherever it serves, and are folded into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from llmtune.adapter.new_rows import folded_in
from llmtune.model.layers import LayerMap, wrap
from llmtune.model.new_tokens import add_tokens, new_ids, tell_network
from tests.unit.adapter.test_wrapping import logits_of, network_of, parts_of, rows_of, settings_of, train
from tests.unit.adapter.tiny_models import FAMILIES

NEW = (41, 7)


class Tokenizer:
    """Knows 41 of the tokens that a task may want."""

    all_special_tokens = ("[PAD]",)

    def get_vocab(self) -> dict[str, int]:
        return {"<known>": 40}

    def add_special_tokens(self, added: Any, replace_extra_special_tokens: bool) -> None:
        assert not replace_extra_special_tokens

    def convert_tokens_to_ids(self, token: str) -> int:
        return {"<known>": 40, "<one>": 41, "<two>": 7}[token]


def test_what_the_tokenizer_knew_is_not_new() -> None:
    tokenizer = add_tokens(Tokenizer(), ("[PAD]", "<known>", "<one>", "<two>"))
    assert new_ids(tell_network(network_of("bert"), tokenizer)) == NEW
    assert new_ids(tell_network(network_of("bert"), None)) == ()
    assert new_ids(network_of("bert")) == ()


def told(network: Any) -> Any:
    network.new_token_ids = NEW
    return network


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("adapter", ["lora", "ia3", "bottleneck", "prompt"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_they_alone_move_of_the_table(family: str, adapter: str, tmp_path: Path) -> None:
    part, network = settings_of(adapter).build(parts_of()), told(network_of(family))
    table = network.get_input_embeddings().weight.detach().clone()
    rows = rows_of()
    rows["input_ids"][:, 3], rows["input_ids"][1, 5] = NEW
    before = network(**rows).logits
    network, added = wrap(part, network)
    layers = LayerMap.of(network, network.base_model_prefix, added)
    name = next(name for name in added if name.endswith("change_ND"))
    assert (layers.places[name], layers.kinds[name]) == ("embeddings", "adapter")
    if adapter == "lora":
        assert torch.allclose(network(**rows).logits, before, atol=1e-6)  # nothing is changed at the start
    train(network, layers.everything)
    with torch.no_grad():
        network.get_parameter(name).add_(0.5)
    words = network.get_input_embeddings()
    assert torch.equal(words.weight, table)
    trained = network(**rows).logits
    with part.plain(network) as plain:
        plain.save_pretrained(tmp_path)
        moved = (words.weight != table).any(dim=1).nonzero()[:, 0]
        assert moved.tolist() == sorted(NEW)
    part.save(network, tmp_path / "adapter", None)
    assert torch.equal(words.weight, table)
    assert torch.equal(network(**rows).logits, trained)
    if adapter in ("lora", "ia3"):
        opened = PeftModel.from_pretrained(network_of(family), str(tmp_path / "adapter")).eval()
        assert torch.allclose(opened(**rows).logits, trained, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart"])
def test_they_serve_wherever_the_table_serves(family: str) -> None:
    """Scores of words and a decoder's own words are of the same table, which may be scaled (BART's kin)."""
    shape = FAMILIES[family][1] if family in FAMILIES else {
        "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "scale_embedding": True,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 32,
        "decoder_start_token_id": 1, "forced_eos_token_id": None,
    }  # fmt: skip
    config = AutoConfig.for_model(family, **{**shape, "vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1,
                                             "eos_token_id": 2, "tie_word_embeddings": True})  # fmt: skip
    torch.manual_seed(0)
    kind = AutoModelForCausalLM if family == "gpt2" else AutoModelForSeq2SeqLM
    network = told(kind.from_config(config).eval())
    part = settings_of("lora").build(parts_of())
    network, added = wrap(part, network)
    rows = {**rows_of(), **({} if family == "gpt2" else {"decoder_input_ids": torch.tensor([[1, 41, 9, 7]] * 3)})}
    rows["input_ids"][:, 3] = 41
    with torch.no_grad():
        before = network(**rows).logits
        network.get_parameter(next(name for name in added if name.endswith("change_ND"))).normal_()
        changed = network(**rows).logits
        with folded_in(network) as table:
            assert network.get_parameter(str(table)) is network.get_input_embeddings().weight
            assert torch.allclose(network(**rows).logits, changed, atol=1e-5)
    assert not torch.allclose(before, changed, atol=1e-2)
    assert torch.equal(network(**rows).logits, changed)


def test_a_head_of_the_same_names_is_no_hindrance() -> None:
    """peft copies modules by the ends of their names: one that others share is saved without a copy."""
    from llmtune.adapter.tuner import _copied_by_peft

    network = network_of("bert")
    network.dense = torch.nn.Linear(2, 2)
    assert _copied_by_peft(network) == ["bert.pooler", "classifier"]


def test_logits_of_padding_stay() -> None:
    network = told(network_of("bert"))
    settings_of("lora").build(parts_of()).wrap(network)
    assert torch.allclose(logits_of(network, padding=3), logits_of(network), atol=1e-5)

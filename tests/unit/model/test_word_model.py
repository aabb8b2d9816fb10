"""A language model that is asked at some positions alone gives there what transformers' class gives."""

from __future__ import annotations

import inspect

import pytest
import torch
from transformers import AutoConfig

from llmtune.core.types import Batch
from llmtune.model import language_head, word_model
from llmtune.model.generation import Decoding, generate
from llmtune.model.trunk import Trunk
from llmtune.model.word_model import WordModel

DECODERS = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "num_key_value_heads": 1},
    "gemma2": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
               "num_key_value_heads": 1, "head_dim": 8},
    "opt": {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "word_embed_proj_dim": 16, "max_position_embeddings": 64},
}  # fmt: skip
SMALL = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}  # fmt: skip
SEQUENCE = {
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0},
    "bart": SMALL, "marian": {**SMALL, "decoder_start_token_id": 0, "pad_token_id": 0}, "mbart": SMALL,
}  # fmt: skip
GREEDY = Decoding(max_new_tokens=6, num_beams=1, temperature=0, top_k=0, top_p=1, repetition_penalty=1,
                  no_repeat_ngram=0, length_penalty=1)  # fmt: skip


def made(family: str, values: dict) -> torch.nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=50, **values)
    return WordModel("sequence" if config.is_encoder_decoder else "causal").from_config(config).eval()


@pytest.mark.parametrize("family", DECODERS)
def test_scores_of_wanted_positions_are_those_of_the_plain_model(family):
    model = made(family, DECODERS[family])
    ids_BT = torch.randint(4, 50, (2, 7))
    wanted_BT = torch.tensor([[0, 0, 1, 1, 0, 1, 0], [0, 1, 1, 0, 0, 0, 0]])
    plain_NV = model(input_ids=ids_BT).logits[wanted_BT.bool()]
    torch.testing.assert_close(model(input_ids=ids_BT, wanted=wanted_BT).logits, plain_NV)


@pytest.mark.parametrize("family", SEQUENCE)
def test_a_decoder_beside_an_encoder_has_the_loss_of_transformers_own_labels(family):
    model = made(family, SEQUENCE[family])
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    labels_BT = torch.tensor([[5, 6, 2], [7, 2, -100]])
    ids_BT, mask_BT = torch.tensor([[9, 8, 7, 2], [9, 2, 1, 1]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    theirs = model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT).loss
    start = model.config.decoder_start_token_id if family != "mbart" else None
    first = 2 if start is None else start
    given_BT = torch.tensor([[first, 5, 6], [first, 7, 1]])
    ours_NV = model(
        input_ids=ids_BT, attention_mask=mask_BT, decoder_input_ids=given_BT, wanted=(labels_BT >= 0).long()
    ).logits
    ours = torch.nn.functional.cross_entropy(ours_NV, labels_BT[labels_BT >= 0])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_loss_in_pieces_is_the_loss(monkeypatch):
    model = made("gpt2", DECODERS["gpt2"])
    view = {"input_ids": torch.randint(4, 50, (3, 9)), "wanted": torch.randint(0, 2, (3, 9))}
    label_N = torch.randint(0, 50, (int(view["wanted"].sum()),))
    batch = Batch(row_ids=[0, 1, 2], views={"clean": view}, targets={"label": label_N})
    trunk = Trunk(model)
    assert word_model.loss_of_words(trunk, batch, label_N, 0.1) is None
    logits_NV = trunk.logits("clean", batch)
    whole = torch.nn.functional.cross_entropy(logits_NV, label_N, reduction="sum", label_smoothing=0.1)
    whole.backward()
    gradient = model.transformer.wte.weight.grad.clone()
    model.zero_grad()
    trunk.reset()
    for module in (word_model, language_head):
        monkeypatch.setattr(module, "MOST_SCORES", 400)
    pieces = word_model.loss_of_words(trunk, batch, label_N, 0.1)
    pieces.total.backward()
    torch.testing.assert_close(pieces.total, whole)
    torch.testing.assert_close(model.transformer.wte.weight.grad, gradient)
    assert float(pieces.count) == len(label_N)


@pytest.mark.parametrize("family", [*DECODERS, "t5", "bart"])
def test_what_is_written_for_a_prompt_does_not_hang_on_the_others_of_its_batch(family):
    model = made(family, {**DECODERS, **SEQUENCE}[family])
    prompts = [[9, 8, 7, 6, 5], [11], [12, 13, 14]]
    start = [model.config.decoder_start_token_id] if model.config.is_encoder_decoder else []
    told = {"pad_id": 1, "stop_ids": [2], "seed": 0, "start": start}
    together = generate(model, prompts, GREEDY, **told)
    assert together == [generate(model, [prompt], GREEDY, **told)[0] for prompt in prompts]
    assert all(len(answer.ids) <= 6 for answer in together)


def test_the_signature_stays_that_of_transformers():
    model = made("gpt2", DECODERS["gpt2"])
    assert "position_ids" in inspect.signature(model.forward).parameters
    assert "wanted" not in inspect.signature(type(model).forward).parameters


def test_several_answers_are_drawn_from_the_seed_and_fit_the_model():
    model = made("gpt2", DECODERS["gpt2"])
    drawn = Decoding(max_new_tokens=8, num_beams=1, temperature=1, top_k=0, top_p=0.9, repetition_penalty=1,
                     no_repeat_ngram=0, length_penalty=1)  # fmt: skip
    state = torch.random.get_rng_state()
    told = {"pad_id": 0, "stop_ids": [0], "num_answers": 3}
    answers = generate(model, [[5, 6], [7]], drawn, seed=1, **told)
    assert len(answers) == 6
    assert answers == generate(model, [[5, 6], [7]], drawn, seed=1, **told)
    assert answers != generate(model, [[5, 6], [7]], drawn, seed=2, **told)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(len(answer.ids) <= 2 for answer in generate(model, [[5] * 62], drawn, seed=1, room=64, **told))
    assert generate(model, [[5] * 64], drawn, seed=1, room=64, **told) == [([], True)] * 3


def test_beams_and_draws_exclude_each_other():
    with pytest.raises(ValueError, match="temperature=0"):
        Decoding(max_new_tokens=8, num_beams=4, temperature=1, top_k=0, top_p=1, repetition_penalty=1,
                 no_repeat_ngram=0, length_penalty=1)  # fmt: skip

"""Tokenizers and models as they are found in folders: what they are, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, BertConfig, BertModel, PreTrainedTokenizerBase

from llmtune.config.settings import TokenizerSettings
from llmtune.core.errors import ModelError
from llmtune.model.backbone import load_model, load_tokenizer, longest_row, model_fingerprint, tokenizer_sha
from llmtune.model.tokenizers import train_tokenizer
from tests.tiny import config_of

TEXTS = ["a slow film with no heart", "a warm and quick film"] * 3
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    settings = TokenizerSettings(kind="wordpiece", vocab_size=100, min_frequency=1, lowercase=True)
    return train_tokenizer(settings, TEXTS, BertConfig(**SHAPE))


def test_how_a_tokenizer_was_last_called_is_not_in_its_hash(tokenizer: PreTrainedTokenizerBase) -> None:
    before = tokenizer_sha(tokenizer)
    tokenizer(TEXTS, truncation=True, max_length=4, padding="max_length")
    assert tokenizer_sha(tokenizer) == before
    tokenizer.add_tokens(["sings"])
    assert tokenizer_sha(tokenizer) != before


def test_a_model_that_moved_is_the_same_model(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    configs = []
    for name in ("one", "two"):
        BertConfig(**SHAPE).save_pretrained(tmp_path / name)
        configs.append(BertConfig.from_pretrained(tmp_path / name))
    configs[1].transformers_version = "4.0"
    one, two = (model_fingerprint(config, tokenizer) for config in configs)
    assert one == two
    assert model_fingerprint(BertConfig(**{**SHAPE, "hidden_size": 32}), tokenizer) != one


def test_a_model_made_for_a_small_vocabulary_has_no_ids_outside_of_it(tokenizer: PreTrainedTokenizerBase) -> None:
    settings = config_of("task=causal_lm", "model=tiny_gpt2").model
    model = load_model(settings, AutoModelForCausalLM, tokenizer, seed=0).model
    assert model.config.vocab_size == len(tokenizer)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    BertModel(BertConfig(**SHAPE, vocab_size=50)).save_pretrained(tmp_path)
    settings = config_of("task=sentiment", "model=pretrained", f"model.path={tmp_path}").model
    with pytest.raises(ModelError, match=r"no tokenizer"):
        load_tokenizer(settings, ())


@pytest.mark.parametrize(("kind", "most"), [("bert", 66), ("camembert", 64), ("xlm-roberta", 64)])
def test_longest_row_without_a_limit_of_the_tokenizer(kind: str, most: int, tokenizer: PreTrainedTokenizerBase) -> None:
    from transformers import AutoConfig

    tokenizer.model_max_length = 10**30
    assert longest_row(AutoConfig.for_model(kind, max_position_embeddings=66, pad_token_id=1), tokenizer) == most

"""Masking: shares, whole words, spans, Chinese; the same for a row however it is batched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from llmtune.config.settings import TokenizerSettings
from llmtune.data.text.masking import Masker, bytes_of_tokens
from llmtune.model.tokenizers import train_tokenizer

TEXTS = [
    "unbelievable lighthouse keepers sang beautifully, and nobody answered them", "我们今天在北京大学学习机器翻译",
] * 4  # fmt: skip


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram"])
def tokenizer(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    settings = TokenizerSettings(kind=request.param, vocab_size=300, min_frequency=1, lowercase=True)
    return train_tokenizer(settings, TEXTS, AutoConfig.for_model("bert"))


def rows_of(tokenizer, repeats: int = 60) -> torch.Tensor:  # type: ignore[no-untyped-def]
    ids = tokenizer(TEXTS[0])["input_ids"]
    return torch.tensor([ids] * repeats)


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_as_many_are_hidden_as_asked_for_and_no_special_token(unit: str, tokenizer) -> None:  # type: ignore[no-untyped-def]
    masker, ids = Masker(tokenizer, mask_share=0.3, unit=unit), rows_of(tokenizer)
    hidden, targets = masker.mask(ids, None, list(range(len(ids))))
    chosen = targets >= 0
    most = round(0.3 * (ids.shape[1] - 2))
    assert bool((chosen.sum(dim=1) <= max(most, 12)).all())
    assert chosen.float().sum(dim=1).mean() > 0.5 * most
    assert not bool(chosen[:, 0].any() | chosen[:, -1].any())
    assert torch.equal(targets[chosen], ids[chosen])
    assert torch.equal(hidden[~chosen], ids[~chosen])
    shares = [(hidden[chosen] == masker.mask_id).float().mean(), (hidden[chosen] == ids[chosen]).float().mean()]
    assert shares[0] == pytest.approx(0.8, abs=0.1)
    assert shares[1] == pytest.approx(0.1, abs=0.08)


def test_whole_words_are_hidden_together(tokenizer) -> None:  # type: ignore[no-untyped-def]
    encoded = tokenizer(TEXTS[0])
    words = encoded.word_ids()
    masker = Masker(tokenizer, unit="word")
    groups = masker.words(np.array(encoded["input_ids"]), np.arange(1, len(words) - 1), np.random.default_rng(0))
    assert all(len({words[place] for place in group}) == 1 for group in groups)
    assert len(groups) >= len(TEXTS[0].split())


def test_chinese_is_hidden_by_words_and_not_by_sentences(tokenizer) -> None:  # type: ignore[no-untyped-def]
    ids = np.array(tokenizer(TEXTS[1])["input_ids"])
    places = np.flatnonzero(~Masker(tokenizer).special_V[ids])
    drawn = Masker(tokenizer, unit="word").words(ids, places, np.random.default_rng(0))
    assert np.array_equal(np.concatenate(drawn), places)
    if len(places) > 6:  # a vocabulary may hold the whole text as one piece
        assert len(drawn) > 1


def test_a_segmenter_says_what_chinese_words_are() -> None:
    settings = TokenizerSettings(kind="wordpiece", vocab_size=300, min_frequency=1, lowercase=True)
    tokenizer = train_tokenizer(settings, TEXTS, AutoConfig.for_model("bert"))
    cut = ["我们", "今天", "在", "北京大学", "学习", "机器", "翻译"]
    masker = Masker(tokenizer, segmenter=lambda text: cut)
    ids = np.array(tokenizer("".join(cut))["input_ids"])
    groups = masker.words(ids, np.arange(1, len(ids) - 1), np.random.default_rng(0))
    assert [len(group) for group in groups] == [len(word) for word in cut]


def test_a_row_is_masked_alike_in_any_batch(tokenizer) -> None:  # type: ignore[no-untyped-def]
    masker, ids = Masker(tokenizer, unit="span"), rows_of(tokenizer, 3)
    whole = masker.mask(ids, None, [7, 8, 9])
    padded = torch.cat([ids[1:2], torch.full((1, 4), tokenizer.pad_token_id)], dim=1)
    alone = masker.mask(padded, torch.tensor([[1] * ids.shape[1] + [0] * 4]), [8])
    assert torch.equal(alone[0][0, :-4], whole[0][1])
    assert torch.equal(alone[1][0, :-4], whole[1][1])
    assert not torch.equal(whole[1][0], whole[1][1])


def test_bytes_of_byte_level_tokens() -> None:
    settings = TokenizerSettings(kind="bpe", vocab_size=300, min_frequency=1, lowercase=False)
    tokenizer = train_tokenizer(settings, TEXTS, AutoConfig.for_model("gpt2"))
    sizes = bytes_of_tokens(tokenizer)
    assert sizes is not None
    for text in TEXTS[:2]:
        assert sizes[tokenizer(text)["input_ids"]].sum() == len(text.encode())

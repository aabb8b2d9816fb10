"""Words to pieces with every kind of tokenizer, and long rows in windows: no word and no entity is lost."""

from __future__ import annotations

import inspect
import itertools
import json
import random
from typing import Any

import pytest
from transformers import AutoConfig

from llmtune.config.settings import TokenizerSettings
from llmtune.data.tagging import encoding as tagging_encoding
from llmtune.data.tagging import windows as tagging_windows
from llmtune.data.tagging.encoding import FIRST, NO_FIRST, READ, Overlap, TaggingEncoder
from llmtune.data.tagging.learnt import Learnt
from llmtune.data.tagging.rows import Reading
from llmtune.data.tagging.schemes import SCHEMES, write_tags
from llmtune.data.tagging.windows import cut_windows, owners
from llmtune.model.tokenizers import train_tokenizer
from llmtune.task.tagging_losses import span_targets, span_width

TEXTS = [
    "the bridge at Ostermoor stays shut", "Anna Grau met Bo in Bad Tölz.", "北京大学的王芳来了。", "a b c d e f g",
] * 9  # fmt: skip
BY_TOKENS = Reading("BIO", "", False, False)


def encoder(tokenizer: Any, *, spans: bool = False, overlap: int = 4, longest: int = 3, by: str = "tokens") -> Any:
    reading = Reading(**{**vars(BY_TOKENS), "by": by})
    return TaggingEncoder(tokenizer, Learnt(reading, "BIO", ("X", "Y"), spans, longest), Overlap(overlap, longest))


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    family = {"wordpiece": "bert", "bpe": "gpt2", "unigram": "t5"}[request.param]
    settings = TokenizerSettings(kind=request.param, vocab_size=300, min_frequency=1, lowercase=False)
    return train_tokenizer(settings, TEXTS, AutoConfig.for_model(family))


@pytest.mark.parametrize(
    "words", [["Anna", "Grau", "met", "Bo", "."], ["北", "京", "大", "学"], ["the", "京", "Zwölfjährige"]]
)
def test_each_word_has_its_pieces_and_its_first_carries_the_tag(tokenizer: Any, words: list[str]) -> None:
    tags = ["B-X", "I-X"] + ["O"] * (len(words) - 2)
    columns = {"tokens": [json.dumps(words)], "tags": [json.dumps(tags)]}
    encode = encoder(tokenizer)
    encoded = encode(columns, 60)
    ids, signs, target = (encoded[name][0] for name in ("input_ids", "words", "target"))
    assert len(ids) == len(signs) == len(target) == sum(encoded["cuts"][0])
    assert [id for sign, id in zip(signs, target) if sign == READ] == [1, 2] + [0] * (len(words) - 2)
    assert set(signs) <= {NO_FIRST, READ}
    assert all(id == -100 for sign, id in zip(signs, target) if sign != READ)
    # a word's pieces, from its first to the next one's, are its letters
    starts = [place for place, sign in enumerate(signs) if sign == READ]
    if tokenizer.unk_token_id not in ids:
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        assert whole.replace(" ", "") == "".join(words)
        for word, (start, stop) in zip(words, zip(starts, [*starts[1:], len(ids)])):
            assert tokenizer.decode(ids[start:stop], skip_special_tokens=True).strip() == word


def test_a_text_gets_the_ids_that_the_tokenizer_gives_it(tokenizer: Any) -> None:
    for text in ("the bridge at Ostermoor", "Anna met Bo"):
        encoded = encoder(tokenizer, by="text")({"text": [text]}, 60)
        ids = encoded["input_ids"][0]
        wanted = tokenizer(text)["input_ids"]
        assert ids == wanted
        assert "target" not in encoded


def test_words_that_a_tokenizer_drops_have_a_piece_all_the_same(tokenizer: Any) -> None:
    words = ["a", "\u200b", "\u00ad", "b"]
    encoded = encoder(tokenizer)({"tokens": [json.dumps(words)]}, 60)
    assert encoded["words"][0].count(READ) == 4


@pytest.mark.parametrize("seed", range(12))
def test_no_entity_is_lost_in_windows(tokenizer: Any, seed: int) -> None:
    rng = random.Random(seed)
    words = rng.choices(["the", "bridge", "Ostermoor", "stays", "Anna", "Bo", "北", "京"], k=rng.randint(45, 90))
    entities, at = [], 0
    while at < len(words) - 3:
        end = at + rng.randint(1, 3)
        entities.append((at, end, rng.choice("XY")))
        at = end + rng.randint(0, 3)
    tags = write_tags(entities, len(words), SCHEMES["BIO"])
    columns = {"tokens": [json.dumps(words)], "tags": [json.dumps(tags)]}
    most = rng.randint(30, 40)
    encoded = encoder(tokenizer, overlap=rng.randint(0, 20))(columns, most)
    ids, target, cuts = (encoded[name][0] for name in ("input_ids", "target", "cuts"))
    assert len(cuts) > 1
    assert max(cuts) <= most
    assert sum(cuts) == len(ids)
    names = ("O", "B-X", "I-X", "B-Y", "I-Y")
    assert [names[id] for id in target if id != -100] == tags
    # of spans a quarter of a window's words is sure to be whole
    spans = encoder(tokenizer, spans=True, longest=6)(columns, 2 * most)["target"][0]
    flat = spans[1 + spans[0] :]
    assert list(zip(flat[::3], flat[1::3], flat[2::3])) == [(a, b - a, "OXY".index(kind)) for a, b, kind in entities]


def test_every_entity_lies_whole_in_a_window_and_each_word_is_read_where_it_has_most_context() -> None:
    rng = random.Random(0)
    for _ in range(400):
        sizes = [rng.randint(1, 4) for _ in range(rng.randint(1, 60))]
        room, together = rng.randint(4, 40), rng.randint(1, 12)
        windows = cut_windows(sizes, room, overlap=rng.randint(0, 30), together=together)
        assert all(sum(sizes[first:stop]) <= room for first, stop in windows)
        together = min(together, *((stop - first) // 2 for first, stop in windows)) if windows[1:] else together
        for start, end in itertools.combinations(range(len(sizes) + 1), 2):
            if end - start <= together and sum(sizes[start:end]) <= room:
                assert any(first <= start and end <= stop for first, stop in windows)
        read = owners(windows)
        assert [word for low, high in read for word in range(low, high)] == list(range(len(sizes)))

        def context(word: int, first: int, stop: int, total: int = len(sizes)) -> float:
            return min(word - first if first else float("inf"), stop - 1 - word if stop < total else float("inf"))

        for window, (low, high) in zip(windows, read):
            for word in range(low, high):
                assert context(word, *window) == max(context(word, *one) for one in windows if one[0] <= word < one[1])


@pytest.mark.parametrize("together", [1, 60, 126, 900])
def test_an_entity_as_long_as_a_window_does_not_multiply_windows(together: int) -> None:
    windows = cut_windows([1] * 1000, 126, overlap=32, together=together)
    assert len(windows) <= 2 * 1000 / 126 + 1


def test_spans_that_are_not_whole_where_they_are_read_are_marked(tokenizer: Any) -> None:
    entities = [(3, 5, "X"), (10, 100, "Y"), (110, 111, "X")]
    words = ["a"] * 120
    columns = {"tokens": [json.dumps(words)], "tags": [json.dumps(write_tags(entities, 120, SCHEMES["BIO"]))]}
    encoded = encoder(tokenizer, spans=True, longest=180)(columns, 60)
    flat, cuts = encoded["target"][0], encoded["cuts"][0]
    assert flat[1 + flat[0] :] == [3, 2, 1, 10, -90, 2, 110, 1, 1]
    width, lost, total = span_width([flat], 64)
    assert (lost, total) == (1, 3)
    label_RTW = span_targets([flat], [cuts], width)["label"]
    assert int((label_RTW > 0).sum()) == 2


def test_a_word_longer_than_a_window_stays(tokenizer: Any) -> None:
    words = ["a", "x" * 300, "b"]
    encoded = encoder(tokenizer)({"tokens": [json.dumps(words)]}, 20)
    assert encoded["words"][0].count(READ) == 3
    assert max(encoded["cuts"][0]) <= 20
    assert encoder(tokenizer)({"tokens": [json.dumps(words)]}, None)["cuts"][0] == [len(
        encoder(tokenizer)({"tokens": [json.dumps(words)]}, None)["input_ids"][0])]  # fmt: skip


def test_words_in_two_windows_are_read_in_one(tokenizer: Any) -> None:
    words = [f"w{number}" for number in range(40)]
    signs = encoder(tokenizer)({"tokens": [json.dumps(words)]}, 40)["words"][0]
    assert signs.count(READ) == 40
    assert signs.count(FIRST) > 0


def test_a_change_of_how_windows_are_cut_changes_the_key_of_cached_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    before, getsource = tagging_encoding.code(), inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda of: getsource(of) + "#" * (of is tagging_windows))
    assert tagging_encoding.code() != before

"""Augmentation in a run: a function of (seed, epoch, row), never of evaluation rows, and resumed to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llmtune.core.errors import Stopped, UserError
from llmtune.run.checkpoint import CheckpointStore
from llmtune.run.signals import StopRequest
from tests.tiny import TINY, prepared_of, trainer_of, write_rows

ALL = "augmentation=[synonyms,random_insertion,random_swap,random_deletion,crop,token_cutoff]"
MUCH = (ALL, "augmentation.random_swap.share=1", "augmentation.token_cutoff.share=0.7", "train.batch_rows=12")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


class StopAt(StopRequest):
    """Asks for a stop at the n-th time that somebody looks."""

    def __init__(self, looks: int):
        self.left = looks

    @property
    def name(self) -> str | None:  # type: ignore[override]
        self.left -= 1
        return "SIGTERM" if self.left < 0 else None


def seen(trainer, steps: range) -> dict[int, list[int]]:
    """Row -> its ids as training sees them."""
    found = {}
    for step in steps:
        for batch in trainer.feed.at(step):
            view = batch.views["clean"]
            for place, row in enumerate(batch.row_ids):
                ids = view["input_ids"][place]
                found[row] = (ids[view["attention_mask"][place] == 1] if "attention_mask" in view else ids).tolist()
    return found


def test_a_row_is_a_function_of_seed_epoch_and_row(rows: list[str], tmp_path: Path) -> None:
    trainer = trainer_of(prepared_of(*TINY, *rows, *MUCH), tmp_path / "a")
    split = trainer_of(prepared_of(*TINY, *rows, *MUCH, "train.micro_rows=3"), tmp_path / "b")
    first, second = seen(trainer, range(5)), seen(trainer, range(5, 10))
    assert len(first) == 60
    assert first == seen(trainer, range(5)) == seen(split, range(5))
    assert sum(first[row] != second[row] for row in first) > 50
    other = trainer_of(prepared_of(*TINY, *rows, *MUCH, "seed=2"), tmp_path / "c")
    assert sum(first[row] != ids for row, ids in seen(other, range(5)).items()) > 50
    plain = trainer_of(prepared_of(*TINY, *rows, "train.batch_rows=12"), tmp_path / "d")
    assert all(ids == seen(plain, range(5, 10))[row] for row, ids in seen(plain, range(5)).items())


def test_sums_lengths_and_specials_are_right(rows: list[str], tmp_path: Path) -> None:
    prepared = prepared_of(*TINY, *rows, *MUCH, "augmentation.random_insertion.strength=1", "data.max_tokens=24",
                           "data.max_truncated_share=1")  # fmt: skip
    trainer = trainer_of(prepared, tmp_path)
    tokenizer = prepared.tokenizer
    for step in range(5):
        for batch in trainer.feed.at(step):
            view = batch.views["clean"]
            ids = view["input_ids"]
            real = view.get("attention_mask", torch.ones_like(ids)).bool()
            assert batch.real_tokens == int(real.sum())
            assert batch.padded_tokens == ids.numel()
            assert ids.shape[1] <= 24
            assert (ids[:, 0] == tokenizer.cls_token_id).all()
            assert ((ids == tokenizer.sep_token_id).sum(1) == 1).all()
            assert (ids[~real] == tokenizer.pad_token_id).all()
            assert view["token_type_ids"].shape == ids.shape


def test_evaluation_rows_stay_as_they_are(rows: list[str], tmp_path: Path) -> None:
    changed = trainer_of(prepared_of(*TINY, *rows, *MUCH), tmp_path / "a")
    plain = trainer_of(prepared_of(*TINY, *rows, "train.batch_rows=12"), tmp_path / "b")
    for one, other in zip(changed.validation, plain.validation, strict=True):
        assert torch.equal(one.views["clean"]["input_ids"], other.views["clean"]["input_ids"])


def test_resumed_is_unstopped(rows: list[str], tmp_path: Path) -> None:
    prepared = prepared_of(*TINY, *rows, *MUCH, "train.epochs=2", "train.save_every=3")
    whole = trainer_of(prepared, tmp_path / "whole")
    whole.fit()
    with pytest.raises(Stopped):
        trainer_of(prepared, tmp_path / "part", StopAt(16)).fit()
    again = trainer_of(prepared, tmp_path / "part")
    checkpoint = CheckpointStore(tmp_path / "part" / "checkpoints", keep=2).newest_good(print)
    assert checkpoint is not None
    again.resume(checkpoint)
    assert 0 < again.state.step < 10
    again.fit()
    for name, weight in whole.composite.state_dict().items():
        assert torch.equal(weight, again.composite.state_dict()[name]), name


def test_pairs_and_their_second_texts(tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    lines = [f"a big house {i}\tthe small street {i} is quiet\t{'yes' if i % 2 else 'no'}" for i in range(24)]
    file.write_text("\n".join(["text\ttext_pair\tlabel", *lines]))
    words = [*TINY, f"data.train={file}", "task=classification", "augmentation=[random_swap]",
             "augmentation.random_swap.share=1", "train.batch_rows=12"]  # fmt: skip
    trainer = trainer_of(prepared_of(*words), tmp_path / "run")
    for batch in trainer.feed.at(0):
        assert (batch.views["clean"]["token_type_ids"] == 1).any(1).all()


def tiny_translator(folder: Path, rows: list[str]) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = prepared_of(*TINY, *rows).tokenizer
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2,
                      decoder_start_token_id=0, pad_token_id=0, eos_token_id=tokenizer.sep_token_id)  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_back_translation_by_local_models(rows: list[str], tmp_path: Path) -> None:
    folder = tiny_translator(tmp_path / "t5", rows)
    ways = [f"augmentation.back_translation.{way}={folder}" for way in ("there", "back")]
    words = (*TINY, *rows, "augmentation=[back_translation]", *ways, "train.batch_rows=6", "train.max_steps=2",
             "augmentation.back_translation.max_new_tokens=5",
             "augmentation.back_translation.strength=1.0")  # fmt: skip
    trainer = trainer_of(prepared_of(*words), tmp_path / "run")
    words_of_plain = (*TINY, *rows, "train.batch_rows=6", "train.max_steps=2")
    plain = trainer_of(prepared_of(*words_of_plain), tmp_path / "plain")
    one, other = seen(trainer, range(1)), seen(plain, range(1))
    assert 0 < sum(one[row] != other[row] for row in one) < 6
    again = trainer_of(prepared_of(*words), tmp_path / "again")
    assert seen(again, range(1)) == one
    trainer.fit()


def test_a_translator_is_asked_in_the_words_it_was_trained_with(rows: list[str], tmp_path: Path) -> None:
    from llmtune.augmentation.back_translation import Translator

    folder = tiny_translator(tmp_path / "t5", rows)
    settings = {"template": "small {source} house", "source_language": None}
    (folder / "llmtune.json").write_text(json.dumps({"task": {"settings": settings}}))
    one = Translator(str(folder), 1.0, 5, "cpu", seed=1)
    one("street")
    model, tokenizer = one._loaded
    asked = []
    generate, model.generate = model.generate, lambda **how: (asked.append(how["input_ids"]), generate(**how))[1]
    first = one("street")
    assert tokenizer.decode(asked[0][0], skip_special_tokens=True) == "small street house"
    assert one("street") == first
    assert {Translator(str(folder), 1.0, 5, "cpu", seed=seed)("street") for seed in range(6)} != {first}


def test_plain_texts_are_changed_too(rows: list[str], tmp_path: Path) -> None:
    prepared = prepared_of(*TINY, *rows, "task=masked_lm", "data.format=jsonl", "data.on_overlength=truncate", ALL,
                           "train.batch_rows=12", "train.max_steps=2")  # fmt: skip
    trainer_of(prepared, tmp_path / "a").fit()


@pytest.mark.parametrize(("words", "said"), [
    (["augmentation=[back_translation]"], "type augmentation.back_translation.there=DIR"),
    (["augmentation=[synonyms]", "augmentation.synonyms.lexicon=none.tsv"], "can't be read"),
    (["augmentation=[crop]", "augmentation.crop.share=2"], "must be from 0 to 1"),
    (["augmentation=[crops]"], "did you mean 'crop'"),
    (["augmentation=[token_cutoff]", "task=prompt_classification",
      "task.verbaliser={good: bright, bad: dull}"], "a prompt asks by a mask"),
    (["augmentation=[random_swap]", "data.on_overlength=split", "task=masked_lm"], "data.on_overlength=truncate"),
])  # fmt: skip
def test_refusals(words: list[str], said: str, rows: list[str]) -> None:
    with pytest.raises(UserError, match=said):
        prepared_of(*TINY, *rows, *words)

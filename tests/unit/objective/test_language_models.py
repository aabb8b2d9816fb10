"""Objectives of language modelling: equal to plain transformers, refused where they don't fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from llmtune.core.errors import ModelError, UserError
from llmtune.model.language_head import LanguageHead, word_loss
from llmtune.training.trainer import Trainer
from tests.tiny import TINY, prepared_of, trainer_of, write_rows

SMALL = (*TINY, "train.batch_rows=6", "train.max_steps=2", "model.dropout=0")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"), rows=24)


def made(folder: Path, *words: str) -> Trainer:
    return trainer_of(prepared_of(*SMALL, *words), folder)


def plain_model(trainer: Trainer, name: str, auto: Any) -> Any:
    """transformers' own language model with the same backbone and head."""
    network = trainer.composite.model
    plain = auto.from_config(network.config).train()
    prefix = network.base_model_prefix
    getattr(plain, prefix).load_state_dict(network.base_model.state_dict(), strict=False)
    head = trainer.composite.objectives[name].head.part.state_dict()
    plain.load_state_dict({key: value for key, value in head.items() if not key.startswith(prefix)}, strict=False)
    return plain


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_masked_lm_is_the_loss_of_transformers_model(unit: str, rows: list[str], tmp_path: Path) -> None:
    trainer = made(tmp_path, *rows, "objective=[supervised,masked_lm]", f"objective.masked_lm.unit={unit}")
    part, composite = trainer.composite.objectives["masked_lm"], trainer.composite
    (batch,) = trainer.feed.at(0)
    plain = plain_model(trainer, "masked_lm", AutoModelForMaskedLM)
    expected = plain(**batch.views[part.view], labels=batch.targets["masked_lm"]).loss * part.count(batch)
    expected.backward()
    composite.trunk.reset()
    loss = part.loss(composite.trunk, batch)
    loss.total.backward()
    assert float(loss.count) == part.count(batch) > 0
    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=0)
    for theirs, ours in (
        (plain.bert.embeddings.word_embeddings, composite.model.bert.embeddings.word_embeddings),
        (plain.cls.predictions.transform.dense, part.head.part.cls.predictions.transform.dense),
    ):
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-6)


def test_causal_lm_is_the_loss_of_transformers_model(rows: list[str], tmp_path: Path) -> None:
    trainer = made(tmp_path, *rows, "model=tiny_gpt2", "objective=[supervised,causal_lm]")
    part, composite = trainer.composite.objectives["causal_lm"], trainer.composite
    (batch,) = trainer.feed.at(0)
    view = batch.views["clean"]
    labels = view["input_ids"].masked_fill(view.get("attention_mask", torch.ones_like(view["input_ids"])) == 0, -100)
    plain = plain_model(trainer, "causal_lm", AutoModelForCausalLM)
    expected = plain(**view, labels=labels).loss * part.count(batch)
    loss = part.loss(composite.trunk, batch)
    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=0)
    assert not list(part.head.part.transformer.parameters())
    assert part.head.part.lm_head.weight is composite.model.transformer.wte.weight


def test_a_large_vocabulary_is_scored_in_pieces(
    monkeypatch: pytest.MonkeyPatch, rows: list[str], tmp_path: Path
) -> None:
    trainer = made(tmp_path, *rows, "objective=[masked_lm]")
    head: LanguageHead = trainer.composite.objectives["masked_lm"].head
    hidden, targets = torch.randn(2, 9, 16, requires_grad=True), torch.randint(5, 60, (2, 9))
    targets[0, 3:] = -100
    whole = word_loss(head, hidden, targets)
    (gradient,) = torch.autograd.grad(whole.total, hidden)
    monkeypatch.setattr("llmtune.model.language_head.MOST_SCORES", 3 * 4 * head.num_words)
    pieces = word_loss(head, hidden, targets)
    assert float(pieces.count) == 12
    torch.testing.assert_close(pieces.total, whole.total)
    torch.testing.assert_close(torch.autograd.grad(pieces.total, hidden)[0], gradient)


def test_rows_of_its_own_are_cut_into_windows_and_replayed(rows: list[str], tmp_path: Path) -> None:
    old = tmp_path / "old.txt"
    old.write_text("a warm film, \"and\" quick\n\n" + "bright light and joy " * 60 + "\n", encoding="utf-8")
    words = ("objective=[supervised,replay]", f"objective.replay.rows={old}", "data.max_tokens=32")
    prepared = prepared_of(*SMALL, *rows, *words)
    own = prepared.feeds["replay"].splits["train"]
    assert own["line"][:2] == [1, 3]
    assert max(own["length"]) <= 32
    assert " ".join(own["text"][1:]).split() == ["bright", "light", "and", "joy"] * 60
    trainer = trainer_of(prepared, tmp_path / "run")
    trainer.fit()
    assert trainer.state.step == 2


def test_a_decoder_writes_what_it_replays(rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmtune.model.language_head.head_is_there", lambda *args: True)
    words = ("model=tiny_gpt2", "objective=[supervised,replay]", "objective.replay.rows=generated",
             "objective.replay.generated_rows=10", "objective.replay.generated_tokens=6")  # fmt: skip
    trainer, again = (made(tmp_path / name, *rows, *words) for name in "ab")
    part = trainer.composite.objectives["replay"]
    (batch,) = trainer.feed.at(0)
    tensors, plain = part.state()
    assert tensors["texts"].shape == (10, 6)
    assert torch.equal(tensors["texts"], again.composite.objectives["replay"].state()[0]["texts"])
    part.load_state({"texts": tensors["texts"] + 0}, plain)
    assert batch.views["replay"]["input_ids"].shape[0] == 6
    assert 0 < part.count(batch) <= 6 * 5


def test_frozen_layers_draw_no_dropout_after_the_texts_were_written(
    rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmtune.model.language_head.head_is_there", lambda *args: True)
    words = ("model=tiny_gpt2", "objective=[supervised,replay]", "objective.replay.rows=generated",
             "objective.replay.generated_rows=4", "objective.replay.generated_tokens=4",
             "freeze_policy=bottom_layers", "freeze_policy.layers=1")  # fmt: skip
    trainer = made(tmp_path, *rows, *words)
    trainer.feed.at(0)
    frozen, open_ = trainer.composite.model.transformer.h[0], trainer.composite.model.transformer.h[1]
    assert open_.training
    assert not any(module.training for module in frozen.modules())


def test_denoising_is_the_loss_of_transformers_model(rows: list[str], tmp_path: Path) -> None:
    trainer = made(tmp_path, *rows, "model=tiny_t5", "objective=[supervised,denoising]")
    part, composite = trainer.composite.objectives["denoising"], trainer.composite
    (batch,) = trainer.feed.at(0)
    view, targets = batch.views["denoising"], batch.targets["denoising"]
    for row in range(len(targets)):
        shown, wanted = view["input_ids"][row].tolist(), targets[row].tolist()
        holes = [i for i in part.spans.sentinels if i in shown]
        assert holes == [i for i in part.spans.sentinels if i in wanted] != []
        pieces = {hole: [] for hole in holes}
        for i in wanted:
            if i in pieces:
                hole = i
            elif i not in (-100, part.spans.end_id):
                pieces[hole].append(i)
        text = [i for each in shown for i in pieces.get(each, [each]) if i not in part.spans.special]
        clean = [i for i in batch.views["clean"]["input_ids"][row].tolist() if i not in part.spans.special]
        assert text == clean
    plain = AutoModelForSeq2SeqLM.from_config(composite.model.config).train()
    plain.load_state_dict(composite.model.transformer.state_dict(), strict=False)
    expected = plain(**view, labels=targets).loss * part.count(batch)
    torch.testing.assert_close(part.loss(composite.trunk, batch).total, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["next_sentence", "sentence_order"])
def test_halves_make_a_pair_with_a_class(name: str, rows: list[str], tmp_path: Path) -> None:
    trainer = made(tmp_path, *rows, f"objective=[{name}]", "train.batch_rows=24")
    part = trainer.composite.objectives[name]
    (batch,) = trainer.feed.at(0)
    view, classes = batch.views[name], batch.targets[name]
    assert set(classes.tolist()) == {0, 1}
    clean = batch.views["clean"]["input_ids"]
    for row in torch.nonzero(classes == 0)[:, 0].tolist():
        text = clean[row][~torch.from_numpy(part.halves.special_V)[clean[row]]]
        ids = view["input_ids"][row]
        assert torch.equal(ids[~torch.from_numpy(part.halves.special_V)[ids]], text)
    parts = view["token_type_ids"]
    assert bool((parts[:, 1:-1].diff(dim=1).abs().sum(dim=1) >= 1).all())
    assert float(part.loss(trainer.composite.trunk, batch).count) == part.count(batch)


def test_a_text_is_never_paired_with_its_own_half(rows: list[str], tmp_path: Path) -> None:
    from datasets import Dataset

    from llmtune.objective.halves import OtherHalves

    part = made(tmp_path, *rows, "objective=[next_sentence]").composite.objectives["next_sentence"]
    texts = [[10, 11, 12, 13, 14, 15], [20, 21, 22, 23, 24, 25], [30]]
    table = Dataset.from_dict({"input_ids": texts, "length": [6, 6, 1]})
    others = OtherHalves(part.halves, table, 0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = others.draw(0, rng)
        assert drawn is not None
        assert set(drawn) <= set(texts[1])  # never its own; what can't be cut is passed over
    assert OtherHalves(part.halves, table.select([0]), 0).draw(0, rng) is None


def test_a_text_is_cut_at_the_end_of_a_sentence(rows: list[str]) -> None:
    from llmtune.objective.halves import Halves

    words = ("task=masked_lm", "data=tales", "model.tokenizer.vocab_size=900", "objective=[masked_lm]")
    prepared = prepared_of(*SMALL, *words)
    halves = Halves(prepared.tokenizer, 64)
    text = "The wind was strong. He sang and went home to his house by the mill."
    ids = np.array(prepared.tokenizer(text)["input_ids"])
    cut = halves.cut(ids)
    assert cut is not None
    assert prepared.tokenizer.decode(cut[0]).endswith(".")
    assert halves.cut(ids[:3]) is None


@pytest.mark.parametrize(("words", "says"), [
    (["objective=[masked_lm]", "model=tiny_gpt2"], "objective causal_lm fits it"),
    (["objective=[causal_lm]"], "objective masked_lm fits it"),
    (["objective=[next_sentence]", "model=tiny_gpt2"], "an encoder"),
    (["objective=[denoising]"], "type model=tiny_t5"),
    (["objective=[supervised,replay]"], "type objective.replay.rows=FILE"),
    (["objective=[supervised,replay]", "objective.replay.rows=generated"], "does not write text"),
    (["objective=[masked_lm]", "objective.masked_lm.batch_tokens=100"], "it reads the task's rows"),
    (["objective=[masked_lm]", "objective.masked_lm.segmenter=jieba"], "pip install jieba"),
    (["task=masked_lm", "model=tiny_gpt2", "objective=[masked_lm]"], "it trains an encoder"),
    (["task=causal_lm", "model=tiny_bert", "objective=[causal_lm]"], "type task=masked_lm"),
    (["task=masked_lm", "objective=[supervised]"], "supervised needs labels"),
    (["train.watch_forgetting=builtin:tales/test.txt"], "holds no trained language-model head"),
    (["data.on_overlength=split"], "data.on_overlength=truncate"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_before_weights_load(
    words: list[str], says: str, rows: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", _without_jieba)
    with pytest.raises(UserError) as error:
        prepared_of(*SMALL, *rows, *words)
    assert says in str(error.value)
    assert issubclass(ModelError, UserError)


def _without_jieba(name: str, package: str | None = None) -> Any:
    import importlib.machinery

    return None if name == "jieba" else importlib.machinery.PathFinder.find_spec(name)


@pytest.mark.parametrize(("words", "weight"), [
    (["objective=[supervised,masked_lm]"], 0.1),
    (["objective=[supervised,masked_lm]", "objective.masked_lm.weight=0.7"], 0.7),
    (["task=masked_lm", "data=tales", "objective=[masked_lm]"], 1.0),
])  # fmt: skip
def test_words_count_a_tenth_beside_a_task(words: list[str], weight: float, rows: list[str], tmp_path: Path) -> None:
    data = rows if "task=masked_lm" not in words else []
    words = [*SMALL, "model.tokenizer.vocab_size=900", *words] if not data else [*data, *words]
    part = made(tmp_path, *words).composite.objectives["masked_lm"]
    assert part.weight(0) == weight


def test_a_head_from_nothing_is_told_of(
    rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertConfig, BertModel

    from llmtune.run.console import Console

    prepared = prepared_of(*SMALL, *rows)
    config = BertConfig(vocab_size=len(prepared.tokenizer), hidden_size=16, num_hidden_layers=1,
                        num_attention_heads=2, intermediate_size=16)  # fmt: skip
    BertModel(config).save_pretrained(tmp_path / "bert")
    prepared.tokenizer.save_pretrained(tmp_path / "bert")
    said: list[str] = []
    monkeypatch.setattr(Console, "say", lambda console, line: said.append(line))
    words = ("model=pretrained", f"model.path={tmp_path / 'bert'}", "objective=[supervised,masked_lm]")
    trainer_of(prepared_of("task=sentiment", *rows, *words), tmp_path / "run")
    assert any("holds no language-model head; it starts at random (task=masked_lm" in line for line in said)


def test_denoising_needs_a_backbone_of_its_own() -> None:
    """T5ForQuestionAnswering is its own backbone."""
    words = ("task=qa", "data.limit=40", "model=tiny_t5", "objective=[supervised,denoising]", "hardware.device=cpu")
    with pytest.raises(ModelError, match="T5ForQuestionAnswering has none"):
        prepared_of(*words)

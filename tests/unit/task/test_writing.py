"""Answers in words: sums of what is known, answers written in a second pass, whatever batches are cut."""

from __future__ import annotations

import math
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoConfig

from llmtune.config.settings import HardwareSettings
from llmtune.core.types import Batch
from llmtune.data.batches.feed import EvaluationFeed, TokenTable
from llmtune.data.tokens.answer_rows import columns_of, decoder_row, sequence_row
from llmtune.hardware.machine import Machine
from llmtune.model.generation import _until_stop
from llmtune.model.word_model import WordModel
from llmtune.scoring.predictions import Outcomes, Predictions
from llmtune.task import writing
from llmtune.task.word_targets import WordTargets
from llmtune.task.writing import Writing, _packed, _unpacked
from llmtune.training.evaluation import predict

PAD = STOP = 0


class Settings:
    max_new_tokens, num_beams, temperature, top_k, top_p = 5, 1, 0.0, 0, 1.0
    repetition_penalty, no_repeat_ngram, length_penalty = 1.0, 0, 1.0
    generate_rows: int | None = 3


class Tokenizer:
    eos_token_id, pad_token_id = STOP, PAD


class Answering:
    """As little of a task as writes."""

    def __init__(self, settings: Any = Settings, num_answers: int = 1):
        self.words, self.writing = WordTargets("answering"), Writing(settings(), num_answers=num_answers)
        self.writing.use(Tokenizer(), start=[1] if settings is Sequences else ())
        self.examine, self.generate = self.writing.examine, self.writing.generate
        self.generated_rows, self.collate_targets = self.writing.generated_rows, self.words.collate_targets


class Sequences(Settings):
    pass


def decoder() -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    return WordModel("causal").from_config(config)


def rows_of(count: int) -> list[dict[str, list[int]]]:
    rng = np.random.default_rng(1)
    texts = [[rng.integers(2, 40, length).tolist() for length in rng.integers(1, 9, 2)] for _ in range(count)]
    return [decoder_row([(before, False), ([*after, STOP], True)]) for before, after in texts]


def table_of_rows(rows: list[dict[str, list[int]]]) -> TokenTable:
    lengths = [len(row["input_ids"]) + len(row.get("decoder_input_ids", ())) for row in rows]
    known = {"length": lengths, "line": list(range(len(rows)))}
    return TokenTable(datasets.Dataset.from_dict({**columns_of(rows), **known}), pad_id=PAD)


def predicted(task: Any, model: Any, table: TokenTable, *, max_tokens: int, thorough: bool = True) -> Any:
    machine = Machine(HardwareSettings(name="cpu", device="cpu", precision="fp32", processes=1, threads=1,
                                       compile=False, deterministic=False))  # fmt: skip
    outcomes, feed = Outcomes(len(table)), EvaluationFeed(table, task.collate_targets, max_tokens)
    loss = predict(model, feed, machine, outcomes, task=task, thorough=thorough)
    return Predictions(table.dataset, outcomes), loss


def test_sums_and_answers_do_not_hang_on_how_batches_are_cut() -> None:
    model, task, rows = decoder(), Answering(), rows_of(11)
    table = table_of_rows(rows)
    (one, loss), (many, again) = (predicted(task, model, table, max_tokens=most) for most in (20, 400))
    (one_by_one,), (together,) = list(one.chunks()), list(many.chunks())
    for first, second, row in zip(one_by_one.outputs, together.outputs, rows):
        np.testing.assert_allclose(first[:3], second[:3], rtol=1e-4)
        assert first[1] == len(row["target"])
    assert task.writing.answers(one_by_one) == task.writing.answers(together)
    assert loss.count == again.count == sum(len(row["target"]) for row in rows)
    assert loss.mean == pytest.approx(again.mean, rel=1e-5)
    scores = task.writing.token_scores(many)
    assert scores["perplexity"] == pytest.approx(math.exp(loss.mean), rel=1e-5)
    assert 0 <= scores["token_accuracy"] <= 1


def test_the_loss_is_that_of_plain_transformers_with_labels() -> None:
    model, task, rows = decoder().eval(), Answering(), rows_of(4)
    _, loss = predicted(task, model, table_of_rows(rows), max_tokens=400)
    total = 0.0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        labels = torch.tensor([[-100] + [
            token if one else -100 for token, one in zip(row["input_ids"][1:], row["wanted"])
        ]])  # fmt: skip
        total += model(input_ids=ids, labels=labels).loss.item() * len(row["target"])
    assert loss.total == pytest.approx(total, rel=1e-5)


def test_an_answer_is_what_transformers_writes_for_the_prompt_alone() -> None:
    model, task, rows = decoder().eval(), Answering(), rows_of(5)
    (chunk,) = predicted(task, model, table_of_rows(rows), max_tokens=400)[0].chunks()
    for row, answers in zip(rows, task.writing.answers(chunk)):
        prompt = torch.tensor([row["input_ids"][: row["asked"][0]]])
        made = model.generate(prompt, max_new_tokens=5, do_sample=False, eos_token_id=STOP, pad_token_id=PAD)
        made = made[0, prompt.shape[1] :].tolist()
        assert answers == [made[: made.index(STOP)] if STOP in made else made]


def test_while_training_some_rows_are_answered_and_they_are_spread() -> None:
    model, task = decoder(), Answering()
    assert list(task.generated_rows(11, thorough=False)) == [0, 5, 10]
    assert list(task.generated_rows(3, thorough=False)) == [0, 1, 2]
    assert list(task.generated_rows(11, thorough=True)) == list(range(11))
    (chunk,) = predicted(task, model, table_of_rows(rows_of(11)), max_tokens=400, thorough=False)[0].chunks()
    found = task.writing.answers(chunk)
    assert [row for row, answers in enumerate(found) if answers is not None] == [0, 5, 10]
    assert all(output[1] > 0 for output in chunk.outputs)


def test_rows_without_known_answers_are_answered_too() -> None:
    model, task = decoder(), Answering()
    rows = [{"input_ids": [5, 6, 7], "asked": [3]}, {"input_ids": [8], "asked": [1]}]
    predictions, loss = predicted(task, model, table_of_rows(rows), max_tokens=400)
    (chunk,) = predictions.chunks()
    assert all(answers is not None and len(answers) == 1 for answers in task.writing.answers(chunk))
    assert loss.count == 0
    assert task.writing.token_scores(predictions) == {}


def test_several_answers_to_each_row_and_the_sum_of_what_was_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawn(Settings):
        temperature = 1.0

    model, task = decoder(), Answering(Drawn, num_answers=3)
    monkeypatch.setattr(writing, "TOKENS_AT_ONCE", 40)
    (chunk,), (again,) = (
        predicted(task, model, table_of_rows(rows_of(6)), max_tokens=400)[0].chunks() for _ in range(2)
    )
    assert [len(answers) for answers in task.writing.answers(chunk)] == [3] * 6
    assert [output.tolist() for output in again.outputs] == [output.tolist() for output in chunk.outputs]


def test_an_encoder_decoder_answers_what_its_encoder_reads() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("t5", vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    model, task = WordModel("sequence").from_config(config).eval(), Answering(Sequences)
    rows = [sequence_row([5, 6, 7, STOP], [8, 9, STOP], start=[1]), sequence_row([5, STOP], [9, STOP], start=[1])]
    predictions, loss = predicted(task, model, table_of_rows(rows), max_tokens=400)
    (chunk,) = predictions.chunks()
    assert loss.count == 5
    made = model.generate(
        torch.tensor([[5, STOP]]), max_new_tokens=5, do_sample=False, decoder_start_token_id=1, eos_token_id=STOP,
        pad_token_id=PAD,
    )[0, 1:].tolist()  # fmt: skip
    assert task.writing.answers(chunk)[1] == [made[: made.index(STOP)] if STOP in made else made]


def test_what_comes_to_no_end_is_cut_wherever_it_had_to_stop() -> None:
    model, task = decoder(), Answering()
    rows = [{"input_ids": [5] * 62, "asked": [62]}, {"input_ids": [5] * 64, "asked": [64]}]
    (chunk,) = predicted(task, model, table_of_rows(rows), max_tokens=64)[0].chunks()
    for most, answers in zip((2, 0), task.writing.written(chunk)):
        ((ids, is_cut),) = answers
        assert len(ids) <= most
        assert is_cut == (len(ids) == most)
    assert _until_stop([4, 5, STOP, PAD], [STOP], PAD) == ([4, 5], False)
    assert _until_stop([4, 5, 6], [STOP], PAD) == ([4, 5, 6], True)
    kept = [([], True), ([7, 8], True), ([], False), ([9], False)]
    assert _unpacked(_packed(kept)) == kept


def test_shares_of_rows_weigh_their_tokens() -> None:
    words = WordTargets("answering")
    targets = words.collate_targets([[3, 4], [5], []])
    assert targets["row"].tolist() == [0, 0, 1]
    logits_NV = torch.randn(3, 9)
    share_B = torch.tensor([0.5, 2.0, 1.0])
    assert words.count(targets) == 3
    assert words.count(targets, share_B) == 3.0
    whole = torch.nn.functional.cross_entropy(logits_NV, targets["label"], reduction="none")
    weighed = words.loss(logits_NV, targets, share_B)
    torch.testing.assert_close(weighed.total, (whole * torch.tensor([0.5, 0.5, 2.0])).sum())
    assert float(words.divergence(logits_NV, logits_NV, targets).total) == 0


def test_a_batch_without_targets_has_none() -> None:
    batch = Batch(row_ids=[4], views={"clean": {"input_ids": torch.tensor([[3]])}}, targets={})
    arrays, loss = Answering().examine(None, batch)
    assert arrays[0].tolist() == [0, 0, 0]
    assert float(loss.count) == 0


def test_rows_are_numbered_through_all_tables() -> None:
    feed = EvaluationFeed(table_of_rows(rows_of(5)), None, 30, first_row=100)
    assert sorted(row for batch in feed if batch is not None for row in batch.row_ids) == [100, 101, 102, 103, 104]

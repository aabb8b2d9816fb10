"""Sentence embeddings: targets and sequences of rows, losses however a step is split, resume, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from llmtune.core.errors import Stopped, UserError
from llmtune.model.similarity import ANCHOR, BYSTANDER, LIKE, NEGATIVE
from llmtune.run.checkpoint import CheckpointStore
from llmtune.task.embedding_loss import collated, num_items
from llmtune.task.embedding_rows import MILLION, NO_SCORE, text_number
from tests.tiny import prepared_of, trainer_of

SMALL = (
    "task=embedding", "data=files", "model.architecture.hidden_size=16", "model.architecture.intermediate_size=32",
    "model.tokenizer.vocab_size=200", "train.verify_model=off", "hardware.device=cpu", "hardware.threads=1",
    "train.log_every=1", "optimizer.lr=0.003",
)  # fmt: skip
WORDS = ["river", "stone", "bread", "lamp", "garden", "winter", "train", "paper", "silver", "door", "apple", "cloud"]


def rows_of(form: str, num: int = 40) -> list[dict[str, Any]]:
    rows = []
    for n in range(num):
        one, two, three = (WORDS[(n * step + n // 12) % 12] for step in (1, 5, 7))
        row: dict[str, Any] = {"text": f"the {one} and the {two} {n}"}
        if form != "texts":
            row["text_pair"] = f"{two} with {one}, number {n}"
        if form == "negatives" and n % 2:
            row["negative"] = [f"{three} without {one}", f"no {two} {n}"][: 1 + n % 3]
        if form == "scored":
            row["label"] = n % 6
        rows.append(row)
    return rows


def data(folder: Path, form: str, **changed: Any) -> list[str]:
    words = []
    for split, num in (("train", 40), ("validation", 14)):
        rows = rows_of(form, num)
        for row in rows[:1]:
            row.update(changed)
        file = folder / f"{split}.jsonl"
        file.write_text("\n".join(json.dumps(row) for row in rows))
        words.append(f"data.{split}={file}")
    return [*words, "data.test_share=0"]


def test_what_targets_say_of_texts() -> None:
    found = collated([[NO_SCORE, 7, 8], [NO_SCORE, 9, 8, 3, 4]], by_score=False)
    assert found["side"].tolist() == [ANCHOR, LIKE, ANCHOR, LIKE, NEGATIVE, NEGATIVE]
    assert found["text"].tolist() == [7, 8, 9, 8, 3, 4]
    assert found["row"].tolist() == [0, 0, 1, 1, 1, 1]
    assert found["label"].isnan().all()
    assert (num_items("in_batch", found), num_items("triplet", found)) == (2, 1)
    twice = collated([[NO_SCORE, 7], [NO_SCORE, 8]], by_score=False)
    assert twice["side"].tolist() == [ANCHOR, ANCHOR, LIKE, LIKE]
    assert twice["text"].tolist() == [7, 8, 7, 8]
    unlike = collated([[MILLION // 5, 7, 8], [MILLION, 7, 9]], by_score=False)
    assert unlike["side"].tolist() == [BYSTANDER, NEGATIVE, ANCHOR, LIKE]
    assert collated([[MILLION // 5, 7, 8]], by_score=True)["label"].tolist() == pytest.approx([0.2, 0.2])


def test_rows_become_a_sequence_for_each_text(tmp_path: Path) -> None:
    prepared = prepared_of(*SMALL, *data(tmp_path, "negatives"))
    rows, task = prepared.splits["train"], prepared.task
    assert (task.problem_type, task.metric, task.mode, task.loss_name) == ("pairs", "mrr_10", "max", "in_batch")
    for row, plain in zip(rows, rows_of("negatives")):
        texts = [plain["text"], plain["text_pair"], *plain.get("negative", [])]
        assert row["target"] == [NO_SCORE, *map(text_number, texts)]
        whole = prepared.tokenizer(texts)["input_ids"]
        assert row["cuts"] == [len(ids) for ids in whole]
        assert row["input_ids"] == [token for ids in whole for token in ids]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("negatives", ["task.matryoshka=[4,8]"]),
        ("negatives", ["task.loss=triplet", "task.margin=1.5"]),
        ("texts", ["model.dropout=0.1"]),
        ("scored", []),
        ("scored", ["task.loss=order"]),
        ("scored", ["task.loss=in_batch"]),
    ],
)
def test_a_step_is_the_same_however_it_is_split(form: str, words: list[str], tmp_path: Path) -> None:
    rows, results = data(tmp_path, form), []
    for micro_rows in (12, 4):
        prepared = prepared_of(*SMALL, *rows, "model.dropout=0", *words, "train.batch_rows=12",
                               f"train.micro_rows={micro_rows}", "train.max_steps=2")  # fmt: skip
        trainer = trainer_of(prepared, tmp_path / str(micro_rows))
        for module in trainer.composite.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        results.append(trainer.stepper.run(0, trainer.feed.at(0), 1e-3, lambda: False))
    whole, split = results
    assert whole.grad_norm > 0
    assert split.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
    assert split.sums == pytest.approx(whole.sums, rel=1e-5)
    assert whole.sums["supervised/count"] > 0


def test_texts_alone_are_seen_twice_with_other_dropout(tmp_path: Path) -> None:
    prepared = prepared_of(*SMALL, *data(tmp_path, "texts"), "model.dropout=0.2", "train.batch_rows=12")
    assert (prepared.task.problem_type, prepared.task.metric) == ("texts", "uniformity")
    trainer = trainer_of(prepared, tmp_path / "run")
    (batch,) = trainer.feed.at(0)
    trainer.composite.train()
    trainer.composite.trunk.draw = 1
    items = trainer.composite.objectives["supervised"].represent(trainer.composite.trunk, batch)
    assert len(items) == 24
    near = (items[:12] * items[12:]).sum(-1)
    assert (near < 0.9999).all()


def test_texts_alone_may_be_scored_by_pairs_with_scores(tmp_path: Path) -> None:
    words = data(tmp_path, "scored")
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows_of("texts")))
    prepared = prepared_of(*SMALL, *words, "model.dropout=0.1", "train.max_steps=2", "task.matryoshka=[8]")
    assert (prepared.task.problem_type, prepared.task.metric) == ("texts", "spearman")
    trainer = trainer_of(prepared, tmp_path / "run")
    trainer.fit()
    *_, last = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
                  if '"spearman_dim8"' in line]  # fmt: skip
    assert -1 <= last["spearman"] <= 1
    assert "loss" not in last  # it hangs on which rows meet


def test_stopped_and_resumed_equals_unstopped(tmp_path: Path) -> None:
    prepared = prepared_of(*SMALL, *data(tmp_path, "negatives"), "train.batch_rows=8", "train.micro_rows=4",
                           "train.max_steps=6", "train.save_every=2", "model.dropout=0.1")  # fmt: skip
    whole, first = (trainer_of(prepared, tmp_path / name) for name in ("whole", "run"))
    whole.fit()
    first.should_stop = lambda: "SIGTERM" if first.state.step >= 3 else None
    with pytest.raises(Stopped):
        first.fit()
    second = trainer_of(prepared, tmp_path / "run")
    checkpoint = CheckpointStore(tmp_path / "run" / "checkpoints", keep=1).newest_good(print)
    assert checkpoint is not None
    second.resume(checkpoint)
    second.fit()
    assert whole.state.step == second.state.step == 6
    for (name, one), (_, two) in zip(whole.composite.named_parameters(), second.composite.named_parameters()):
        assert torch.equal(one, two), name


def test_model_folder_is_the_backbone_with_the_files_of_sentence_transformers(tmp_path: Path) -> None:
    prepared = prepared_of(*SMALL, *data(tmp_path, "pairs"), "task.pooling=first")
    trainer = trainer_of(prepared, tmp_path / "run")
    folder = tmp_path / "model"
    trainer.composite.model.eval().save_pretrained(folder)
    batch = trainer.feed.at(0)[0].views["clean"]
    plain = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        vectors = trainer.composite.model(**batch).logits
        first = plain(**batch).last_hidden_state[:, 0]
        again = prepared.task.model_class().from_pretrained(folder)(**batch).logits
    torch.testing.assert_close(vectors, torch.nn.functional.normalize(first, dim=-1))
    torch.testing.assert_close(vectors, again)
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert pooling["word_embedding_dimension"] == 16
    assert pooling["pooling_mode_cls_token"]
    assert not pooling["pooling_mode_mean_tokens"]
    assert [module["path"] for module in json.loads((folder / "modules.json").read_text())] == [
        "", "1_Pooling", "2_Normalize",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("form", "changed", "words", "message"),
    [
        ("scored", {"label": "high"}, [], r"train\.jsonl:1: 'high' is no score: a finite number is needed"),
        ("scored", {"label": 7}, ["task.score_range=[0,5]"], r"train\.jsonl:1: score 7 is out of range"),
        ("scored", {"negative": ["x"]}, [], "scores and negatives"),
        ("texts", {"negative": ["x"]}, [], "rows have a negative, but no text_pair"),
        ("pairs", {"text_pair": None}, [], r"train\.jsonl:1: no text_pair, other rows have one"),
        ("pairs", {}, ["task.loss=cosine"], "the rows of train have no scores"),
        ("pairs", {}, ["task.loss=triplet"], "no row of train has a text that is unlike"),
        ("pairs", {}, ["task.metric=accuracy"], "'accuracy' is no metric of task=embedding"),
        ("pairs", {}, ["task.metric=loss"], "'loss' is no metric of task=embedding"),
        ("pairs", {}, ["task.matryoshka=[16]"], "but the vectors have 16 numbers"),
        ("texts", {}, ["model.dropout=0"], "texts alone are told apart by dropout"),
        ("pairs", {}, ["objective=[supervised,r_drop]", "model.dropout=0.1"], "r_drop"),
        ("pairs", {}, ["freeze_policy=head_only"], "head_only trains a head alone"),
        ("pairs", {}, ["train.label_smoothing=0.1"], "label_smoothing"),
        ("pairs", {}, ["task.score_range=[5,0]"], "score_range"),
    ],
)
def test_what_does_not_fit_is_told(
    form: str, changed: dict[str, Any], words: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        prepared_of(*SMALL, *data(tmp_path, form, **changed), *words)


def test_an_encoder_decoder_is_refused_saying_what_fits(tmp_path: Path) -> None:
    words = [word for word in SMALL if not word.startswith("model.")]
    with pytest.raises(UserError, match=r"encoder-decoder.*fits encoders"):
        prepared_of(*words, *data(tmp_path, "pairs"), "model=tiny_t5")


def test_a_decoder_is_read_at_its_last_token(tmp_path: Path) -> None:
    words = [word for word in SMALL if not word.startswith("model.")]
    trainer = trainer_of(prepared_of(*words, *data(tmp_path, "pairs"), "model=tiny_gpt2"), tmp_path / "run")
    assert trainer.composite.model.pooling == trainer.composite.model.config.sentence_pooling == "last"

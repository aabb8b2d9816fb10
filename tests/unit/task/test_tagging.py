"""Tagging from files to predictions: each head trains, is proven, evaluates and predicts from words and from texts."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmtune import cli
from llmtune.core.errors import UserError
from tests.tiny import TINY, prepared_of, trainer_of

WORDS = (*(word for word in TINY if not word.startswith(("task=", "optimizer.lr="))), "task=ner", "optimizer.lr=0.01",
         "train.batch_rows=12", "train.max_steps=4")  # fmt: skip
HEADS = ("linear", "crf", "span")
NAMES = ["Anna Grau", "Bo", "Tamsin Voss", "Yara"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("rows")
    rng = random.Random(0)
    for split, size in (("train", 60), ("validation", 12), ("test", 12)):
        lines = []
        for number in range(size):
            name, place = rng.choice(NAMES), rng.choice(["Bad Tölz", "北京", "Graz"])
            text = f"{name} met number {number} of {split} in {place}"
            start = text.index(place)
            spans = [[0, len(name), "person"], {"start": start, "end": start + len(place), "label": "place"}]
            lines.append(json.dumps({"text": text, "spans": spans}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return [f"data.{split}={folder / f'{split}.jsonl'}" for split in ("train", "validation", "test")]


@pytest.mark.parametrize("head", HEADS)
def test_loss_of_a_batch_is_the_sum_over_its_rows_in_windows_too(head: str, rows: list[str], tmp_path: Path) -> None:
    words = ["data.max_tokens=9", "task.overlap=2"]
    prepared = prepared_of(*WORDS, *rows, f"task.head={head}", "model.dropout=0", *words)
    trainer = trainer_of(prepared, tmp_path)
    task, model, table = prepared.task, trainer.composite.model.eval(), trainer.feed.feeds["task"].table
    assert max(table.cuts(range(12)), key=len)[1:], "no row has several windows"
    whole = table.batch(np.arange(6), task.collate_targets)
    parts = [table.batch(np.arange(row, row + 1), task.collate_targets) for row in range(6)]
    with torch.no_grad():
        logits = model(**whole.views["clean"]).logits
        loss = task.loss(logits, whole.targets)
        each = [task.loss(model(**part.views["clean"]).logits, part.targets) for part in parts]
        torch.testing.assert_close(loss.total, sum(one.total for one in each), rtol=1e-4, atol=1e-4)
        assert float(loss.count) == sum(float(one.count) for one in each) == sum(
            row.count(2) for row in whole.facts["words"])  # fmt: skip
        share_B = torch.tensor([0.0, 1.0, 2.0, 0.0, 0.5, 1.0])
        shared = task.loss(logits, whole.targets, share_B)
        torch.testing.assert_close(
            shared.total, sum(share * one.total for share, one in zip(share_B, each)), rtol=1e-4, atol=1e-4
        )
        assert float(task.divergence(logits, logits, whole.targets).total) == pytest.approx(0, abs=1e-4)
        assert float(task.divergence(logits, logits + torch.randn_like(logits), whole.targets).total) > 0


@pytest.mark.parametrize("head", HEADS)
def test_a_run_is_proven_predicts_and_evaluates(head: str, rows: list[str], tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    words = [word for word in WORDS if word != "train.verify_model=off"]
    assert cli.main(["train", *words, *rows, f"task.head={head}", "train.max_steps=60", "train.verify_model=here",
                     "train.eval_every=30", f"run.dir={run}"]) == 0  # fmt: skip
    scores = json.loads((run / "result.json").read_text())["test"]
    assert {"precision", "recall", "f1", "f1_macro", "rows_right", "loss"} <= scores.keys()
    assert scores["f1"] > 0.5
    texts = tmp_path / "texts.csv"
    texts.write_text("id,text\n1,Anna Grau met number 3 of test in Graz\n2,x\n", encoding="utf-8")
    assert cli.main(["predict", str(run), str(texts), "-o", str(tmp_path / "out.csv")]) == 0
    told = list(csv.DictReader((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()))
    found = json.loads(told[0]["entities"])
    assert any(one["text"] == "Anna Grau" and one["label"] == "person" for one in found)
    for one in found:
        assert told[0]["text"][one["start"] : one["end"]] == one["text"]
        assert 0 <= one["score"] <= 1
    tokens = tmp_path / "tokens.jsonl"
    tokens.write_text(json.dumps({"tokens": ["Anna", "Grau", "met", "number", "3", "of", "test", "in", "Graz"]}) + "\n")
    assert cli.main(["predict", str(run), str(tokens), "-o", str(tmp_path / "out.jsonl")]) == 0
    again = json.loads((tmp_path / "out.jsonl").read_text())["entities"]
    assert [(one["text"], one["score"]) for one in again] == [(one["text"], one["score"]) for one in found]
    assert (again[0]["first"], again[0]["last"]) == (0, 1)
    capsys.readouterr()
    assert cli.main(["evaluate", str(run)]) == 0
    assert "person" in capsys.readouterr().out
    (report,) = (run / "evaluations").glob("*.json")
    judged = json.loads(report.read_text())
    assert judged["scores"]["f1"] == pytest.approx(scores["f1"])
    assert {row["label"] for row in judged["classes"]} == {"person", "place"}


def test_the_same_ids_in_training_and_in_predict(rows: list[str]) -> None:
    prepared = prepared_of(*WORDS, *rows, "data.max_tokens=14")
    encode = prepared.task.encoder(prepared.tokenizer)
    again = type(prepared.task)(prepared.task.settings)
    again.restore(json.loads(json.dumps(prepared.task.to_json())))
    kept = prepared.splits["train"]
    texts = {"text": kept["text"][:]}
    for each in (encode, again.encoder(prepared.tokenizer)):
        encoded = each(texts, 14)
        assert encoded["input_ids"] == kept["input_ids"][:]
        assert encoded["cuts"] == kept["cuts"][:]


def test_nested_entities(tmp_path: Path) -> None:
    text = "the University of Graz opened"
    spans = [[4, 22, "org"], [18, 22, "place"]]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": f"{text} {n}", "spans": spans}) + "\n" for n in range(24)))
    files = [f"data.{split}={file}" for split in ("train", "validation", "test")]
    with pytest.raises(UserError, match=r"a.jsonl:1: org 'University of Graz' and place 'Graz' overlap.*head=span"):
        prepared_of(*WORDS, *files)
    run = tmp_path / "run"
    words = ["task.head=span", "task.nested=true", "train.max_steps=40", "train.verify_model=off", "data.test=null",
             "data.test_share=0"]  # fmt: skip
    assert cli.main(["train", *WORDS, *files, *words, "train.eval_every=20", f"run.dir={run}"]) == 0
    assert json.loads((run / "result.json").read_text())["best"]["score"] == 1.0


def test_plain_tags(tmp_path: Path) -> None:
    file = tmp_path / "a.conllu"
    line = "{0}\t{1}\t_\t{2}\t_\t_\t_\t_\t_\t_\n"
    sentence = [("the", "DET"), ("dog", "NOUN"), ("sleeps", "VERB"), (".", "PUNCT")]
    file.write_text("\n".join(
        "".join(line.format(place, *pair) for place, pair in enumerate([("no", "DET"), *sentence][n % 2 :], 1))
        for n in range(30)
    ))  # fmt: skip
    files = [f"data.{split}={file}" for split in ("train", "validation", "test")]
    run = tmp_path / "run"
    words = [word if word != "task=ner" else "task=pos" for word in WORDS]
    assert cli.main(["train", *words, *files, "data=files", "train.max_steps=60", "train.eval_every=30",
                     f"run.dir={run}"]) == 0  # fmt: skip
    assert json.loads((run / "result.json").read_text())["test"]["accuracy"] == 1.0
    raw = tmp_path / "raw.txt"
    raw.write_text("the dog sleeps.\n")
    assert cli.main(["predict", str(run), str(raw), "-o", str(tmp_path / "out.jsonl")]) == 0
    told = json.loads((tmp_path / "out.jsonl").read_text())
    assert told["tags"] == ["DET", "NOUN", "VERB", "PUNCT"]
    assert [word["text"] for word in told["words"]] == ["the", "dog", "sleeps", "."]


@pytest.mark.parametrize(("words", "said"), [
    (["task.head=crf", "train.label_smoothing=0.1"], "train.label_smoothing: set for task.head=crf"),
    (["task.head=span", "train.class_weights=balanced"], "train.class_weights: set for task.head=span"),
    (["train.class_weights={person: 2}"], "no tag 'person'; tags: O, B-person"),
    (["data.on_overlength=truncate"], "type data.on_overlength=split"),
    (["task.head=crf", "model=tiny_t5"], "is an encoder-decoder"),
    (["task.head=cfr"], "did you mean 'crf'"),
])  # fmt: skip
def test_what_can_not_be_is_refused(words: list[str], said: str, rows: list[str]) -> None:
    family = WORDS if "model=tiny_t5" not in words else [word for word in WORDS if "architecture" not in word]
    with pytest.raises(UserError, match=said):
        prepared_of(*family, *rows, *words)


def test_class_weights_and_smoothing_of_the_linear_head(rows: list[str], tmp_path: Path) -> None:
    words = ["train.class_weights={O: 0.5}", "train.label_smoothing=0.1", "train.focal_gamma=1"]
    prepared = prepared_of(*WORDS, *rows, *words)
    trainer = trainer_of(prepared, tmp_path)
    batch = trainer.feed.at(0)[0]
    label = batch.targets["label"]
    outside = int((label == prepared.task.labels.ids["O"]).sum())
    assert prepared.task.count(batch.targets) == int((label != -100).sum()) - 0.5 * outside

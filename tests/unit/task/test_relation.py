"""Relations: marks are tokens of every family, their states are read, a run is proven, predicts and evaluates."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from llmtune import cli
from llmtune.core.errors import UserError
from llmtune.data.forms.entity_pairs import MARKS
from tests.tiny import TINY, prepared_of, trainer_of

WORDS = (*(word for word in TINY if not word.startswith("task=")), "task=relation", "train.batch_rows=12",
         "train.max_steps=3")  # fmt: skip
GPT = ("model=tiny_gpt2", *(word for word in WORDS if "architecture" not in word), "model.architecture.n_embd=16")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("rows")
    relations = {"made by(e1,e2)": "a <e1>{}</e1> made by the <e2>{}</e2>", "made by(e2,e1)":
                 "the <e1>{}</e1> made a <e2>{}</e2>", "Other": "neither <e1>{}</e1> nor <e2>{}</e2>"}  # fmt: skip
    for split, size in (("train", 48), ("validation", 12), ("test", 12)):
        lines = []
        for number in range(size):
            label, text = list(relations.items())[number % 3]
            lines.append({"text": text.format(f"thing {number}", "smith") + f" {split}", "label": label})
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return [f"data.{split}={folder / f'{split}.jsonl'}" for split in ("train", "validation", "test")]


@pytest.mark.parametrize(
    "family", [WORDS, (*WORDS, "model.tokenizer.kind=unigram"), GPT], ids=["wordpiece", "unigram", "bpe"]
)
def test_each_mark_is_one_token_and_its_state_is_read(family: tuple[str, ...], rows: list[str], tmp_path: Path) -> None:
    prepared = prepared_of(*family, *rows, "model.dropout=0")
    trainer = trainer_of(prepared, tmp_path)
    model, marks = trainer.composite.model.eval(), prepared.tokenizer.convert_tokens_to_ids(list(MARKS))
    assert model.get_input_embeddings().weight.shape[0] >= len(prepared.tokenizer) > max(marks)
    view = trainer.feed.at(0)[0].views["clean"]
    for mark in marks:
        assert (view["input_ids"] == mark).sum(1).tolist() == [1] * len(view["input_ids"])
    with torch.no_grad():
        hidden_BTD = model.backbone(**view).last_hidden_state
        read = [hidden_BTD[row, ids.tolist().index(mark)]
                for row, ids in enumerate(view["input_ids"])
                for mark in (marks[::2] if family is not GPT else marks[1::2])]  # fmt: skip
        if family is GPT:
            lengths = view["attention_mask"].sum(1) if "attention_mask" in view else [view["input_ids"].shape[1]] * 12
            read = [state for row in range(len(read) // 2)
                    for state in (*read[2 * row : 2 * row + 2], hidden_BTD[row, lengths[row] - 1])]  # fmt: skip
        side_by_side = torch.stack(read).reshape(len(hidden_BTD), -1)
        wanted = model.classifier(torch.tanh(model.dense(side_by_side)))
        torch.testing.assert_close(model(**view).logits, wanted)


def test_a_long_text_is_cut_around_its_entities_and_the_same_ids_are_predicted_from(rows: list[str]) -> None:
    prepared = prepared_of(*WORDS, *rows)
    encode, tokenizer = prepared.task.encoder(prepared.tokenizer), prepared.tokenizer
    filler = "neither nor " * 40
    text = f"{filler} a <e1>thing 3</e1> made by the <e2>smith</e2> {filler}"
    (whole,), (cut,) = (encode({"text": [text]}, most)["input_ids"] for most in (None, 24))
    assert len(whole) > 100
    assert len(cut) == 24
    assert (cut[0], cut[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert "<e1> thing 3 </e1> made by the <e2> smith </e2>" in tokenizer.decode(cut)
    by_place = {"text": ["a thing by a smith"], "head": ["[2, 7]"], "tail": ['"smith"']}
    assert encode(by_place, None) == encode({"text": ["a <e1>thing</e1> by a <e2>smith</e2>"]}, None)


def test_a_run_is_proven_predicts_and_evaluates(rows: list[str], tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    words = [word for word in WORDS if word != "train.verify_model=off"]
    assert cli.main(["train", *words, *rows, "train.verify_model=here", f"run.dir={run}"]) == 0
    scores = json.loads((run / "result.json").read_text())["test"]
    assert {"f1_macro_official", "f1_micro_relations", "f1_macro_relations", "accuracy"} <= scores.keys()
    file = tmp_path / "more.csv"
    file.write_text("text\na <e1>hat</e1> made by the <e2>smith</e2>\nno marks at all\n")
    assert cli.main(["predict", str(run), str(file), "-o", str(tmp_path / "out.csv")]) == 0
    told = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [(row["head"], row["tail"]) for row in told] == [("hat", "smith"), ("", "")]
    assert told[0]["label"] in ("made by(e1,e2)", "made by(e2,e1)", "Other")
    assert "more.csv:3" in capsys.readouterr().err
    assert cli.main(["evaluate", str(run)]) == 0
    assert "f1_macro_official" in capsys.readouterr().out


def test_a_model_of_semeval_files_evaluates_and_predicts_from_them_and_from_marked_texts(tmp_path: Path) -> None:
    lines = [f'{n}\t"the <e1>smith</e1> made a <e2>thing {n}</e2>"\n{("Other", "made by(e2,e1)")[n % 2]}\nComment:\n'
             for n in range(30)]  # fmt: skip
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    run, out = tmp_path / "run", tmp_path / "out.jsonl"
    files = [f"data.{name}={tmp_path / name}.txt" for name in ("train", "test")]
    assert cli.main(["train", *WORDS, *files, f"run.dir={run}"]) == 0
    assert cli.main(["evaluate", str(run)]) == 0
    report = json.loads((run / "evaluations" / "evaluation-test.json").read_text())
    assert report["rows"] == 30
    assert report["worst"][0]["text"].startswith("the <e1>smith</e1> made a <e2>thing")
    assert cli.main(["predict", str(run), str(tmp_path / "test.txt"), "-o", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == [str(n) for n in range(30)]
    (tmp_path / "more.csv").write_text("text\na <e1>hat</e1> by a <e2>smith</e2>\n")
    assert cli.main(["predict", str(run), str(tmp_path / "more.csv"), "-o", str(out)]) == 0
    assert json.loads(out.read_text())["head"] == {"text": "hat", "start": 2, "end": 5}
    named = {"text": "a hat by a smith", "head": "hat", "tail": [11, 16]}
    rows = [named, {"text": "a <e1>b</e1> <e2>c</e2>", "head": None}]
    (tmp_path / "more.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert cli.main(["predict", str(run), str(tmp_path / "more.jsonl"), "-o", str(out)]) == 0
    assert [json.loads(line)["predicted_tail"]["text"] for line in out.read_text().splitlines()] == ["smith", "c"]


def test_wrong_rows_are_told_by_file_and_line(rows: list[str], tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": "a <e1>b</e1> c", "label": "x"}\n{"text": "<e1>b</e1> <e2>c</e2>", "label": "y"}\n')
    with pytest.raises(UserError, match=r"bad\.jsonl:1: no <e2> in the text"):
        prepared_of(*WORDS, *rows, f"data.test={file}")


@pytest.mark.parametrize(("words", "said"), [
    (["task.other=Otter"], "did you mean 'Other'"),
    (["model=tiny_t5"], "is an encoder-decoder"),
])  # fmt: skip
def test_what_can_not_be_is_refused(words: list[str], said: str, rows: list[str]) -> None:
    family = WORDS if "model=tiny_t5" not in words else [word for word in WORDS if "architecture" not in word]
    with pytest.raises(UserError, match=said):
        prepared_of(*family, *rows, *words)

"""A translation from two files to a model that others open, and to translations in the order of the rows."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from llmtune import cli
from llmtune.config.stored import load_config
from llmtune.inference.predictor import Predictor
from llmtune.inference.run_folder import find_model, settings_of
from llmtune.preflight import preflight
from llmtune.run.console import Console
from llmtune.run.signals import StopRequest

ENGLISH = ["one", "two", "three", "four", "five", "six", "[Music]", "seven dogs"]
GERMAN = ["eins", "zwei", "drei", "vier", "fünf", "sechs", "[Musik]", "sieben Hunde"]
SMALL = ["hardware=cpu", "hardware.threads=1", "offline=true", "model.architecture.d_model=64", "train.epochs=30",
         "train.batch_rows=8", "train.order=random", "model.dropout=0", "train.eval_every=10ep",
         "task.generate_rows=3"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A model that knows some words by heart."""
    folder = tmp_path_factory.mktemp("translate")
    for name, times in (("train", 4), ("test", 1)):
        (folder / f"{name}.en").write_text("\n".join(ENGLISH * times) + "\n", encoding="utf-8")
        (folder / f"{name}.de").write_text("\n".join(GERMAN * times) + "\n", encoding="utf-8")
    files = [f"data.{split}={folder}/{name}.{{en,de}}" for split, name in
             (("train", "train"), ("validation", "test"), ("test", "test"))]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        words = ["train", "task=translate", "data=files", *files, *SMALL, f"run.dir={folder / 'run'}"]
        assert cli.main(words) == 0
    return folder / "run"


def test_what_is_learnt_is_written_and_signed(run: Path) -> None:
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert result["test"]["chrf"] > 90
    assert result["test"]["unfinished"] == 0
    assert result["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    kept = [json.loads(line) for line in (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert kept[6]["source"] == "[Music]"
    assert (kept[6]["target"], kept[6]["predicted"]) == ("[Musik]", "[Musik]")


def test_all_rows_of_validation_are_written_in_the_end(run: Path) -> None:
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert result["validation"] == result["test"]  # the same rows, of which training wrote three


def test_predict_makes_the_token_ids_of_training(run: Path) -> None:
    prepared = preflight(load_config(run), Console(quiet=True), StopRequest(), run=run)
    place = find_model(str(run))
    predictor = Predictor(place, settings_of(place, []))
    for rows in prepared.splits.values():
        assert predictor.encode({"source": rows["source"][:]})["input_ids"] == rows["input_ids"][:]


@pytest.mark.parametrize("beams", [1, 3])
def test_translations_come_in_the_order_of_the_rows(run: Path, folder, beams: int) -> None:
    order = [5, 0, 7, 3]
    with open("in.csv", "w", encoding="utf-8", newline="") as file:
        rows = [(number, ENGLISH[number]) for number in order]
        csv.writer(file).writerows([("id", "source"), *rows[:2], (99, ""), *rows[2:]])
    more = ["hardware.device=cpu", f"task.num_beams={beams}"]
    for out in ("out.csv", "out.jsonl"):
        assert cli.main(["predict", str(run), "in.csv", "-o", out, *more]) == 0
    with open("out.csv", encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["id"] for row in found] == ["5", "0", "99", "7", "3"]
    wanted = [GERMAN[5], GERMAN[0], "", GERMAN[7], GERMAN[3]]
    assert [row["translation"] for row in found] == wanted
    assert [row["cut"] for row in found] == ["false", "false", "", "false", "false"]
    told = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["translation"] for row in told] == [text or None for text in wanted]


def test_a_file_of_sources_alone_is_translated_line_by_line(run: Path, folder, capsys) -> None:
    Path("new.en").write_text("two\n\n[Music]\n", encoding="utf-8")
    assert cli.main(["predict", str(run), "new.en", "-o", "out.jsonl", "--lines", "hardware.device=cpu"]) == 0
    told = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["translation"] for row in told] == ["zwei", None, "[Musik]"]
    assert "1 row(s) without a prediction, empty text: new.en:2" in capsys.readouterr().err


def test_evaluate_scores_other_rows_with_several_references(run: Path, folder) -> None:
    rows = [{"source": "one", "target": ["ein", "eins"]}, {"source": "two", "target": ["zwei"]}]
    Path("more.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ["evaluate", str(run), "data.test=more.jsonl", "out=scores.json", "hardware.device=cpu", "task.num_beams=2"]
    assert cli.main(words) == 0
    report = json.loads(Path("scores.json").read_text(encoding="utf-8"))
    assert report["scores"]["ter"] == 0
    assert report["signatures"]["bleu"].startswith("nrefs:var|")
    assert report["worst"][0]["source"] in ("one", "two")


def test_an_answer_that_is_too_long_to_be_scored_is_told(run: Path, folder, capsys) -> None:
    rows = [{"source": "one", "target": "eins"}, {"source": "two " * 700, "target": "zwei " * 700}]
    Path("long.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert cli.main(["evaluate", str(run), "data.test=long.jsonl", "out=scores.json", "hardware.device=cpu"]) == 2
    said = capsys.readouterr().err
    assert "long.jsonl:2: the answer is too long to be kept whole: " in said
    assert "tokens, and rows have at most 512" in said


def test_the_model_folder_serves_transformers_alone(run: Path, folder) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    copy = shutil.copytree(run / "model", folder / "copy")
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(copy), AutoTokenizer.from_pretrained(copy)
    assert (model.generation_config.max_new_tokens, model.generation_config.num_beams) == (64, None)
    written = model.generate(**tokenizer("three", return_tensors="pt"))
    assert tokenizer.decode(written[0], skip_special_tokens=True).strip() == "drei"


def test_what_cannot_be_set_for_a_trained_model(run: Path, folder, capsys) -> None:
    Path("new.csv").write_text("source\none\n", encoding="utf-8")
    assert cli.main(["predict", str(run), "new.csv", "task.metric=loss"]) == 2
    assert "task.metric: can't be set for a trained model" in capsys.readouterr().err

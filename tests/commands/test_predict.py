"""`llmtune predict`: the same tokens and numbers as in training, every row in its place, clean standard output."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest

from llmtune import cli
from llmtune.config.stored import load_config
from llmtune.inference import predictor
from llmtune.inference.run_folder import find_model, settings_of
from llmtune.preflight import preflight
from llmtune.run.console import Console
from llmtune.run.signals import StopRequest


@pytest.fixture
def stdin(monkeypatch):
    def give(content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    return give


def predicted(run, path, *words, out="out.csv"):
    assert cli.main(["predict", str(run), str(path), "-o", out, *words]) == 0
    with open(out, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file)) if out.endswith("csv") else [json.loads(line) for line in file]


@pytest.mark.parametrize("kind", ["single", "multi", "pairs"])
def test_predict_makes_the_token_ids_of_training(kind, trained):
    run = trained(kind)
    prepared = preflight(load_config(run), Console(quiet=True), StopRequest(), run=run)
    place = find_model(str(run))
    model = predictor.Predictor(place, settings_of(place, []))
    for rows in prepared.splits.values():
        texts = {role: rows[role][:] for role in ("text", "text_pair") if role in rows.column_names}
        tokens = model.encode(texts)
        assert tokens["input_ids"] == rows["input_ids"][:]
        assert tokens["token_type_ids"] == rows["token_type_ids"][:]
    assert model.num_cut > 0  # rows that had to be cut are among them


@pytest.mark.parametrize("kind", ["single", "multi", "pairs"])
def test_predict_agrees_with_predictions_of_the_run(kind, trained, folder):
    run = trained(kind)
    kept = [json.loads(line) for line in (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    found = predicted(run, run.parent / "test.jsonl", out="out.jsonl")
    assert len(found) == len(kept) == 21
    label = "predicted_label" if kind != "pairs" else "label"
    for row, before in zip(found, kept):
        if kind == "pairs":
            assert row["first"] == before["text"]
            assert row[label] == pytest.approx(before["predicted"], abs=1e-4)
            assert "probability" not in row
        else:
            assert (row["text"], row["label"], row[label]) == (before["text"], before["label"], before["predicted"])
            assert row["probabilities"] == pytest.approx(before["probabilities"], abs=1e-4)


def test_csv_with_bom_and_crlf_keeps_order_and_columns_and_answers_every_row(trained, folder, capsys):
    rows = ['7,"a joy, really",x,0.1', "8,,y,", '9,"two\r\nlines, dull",z,3', "5,few"]
    content = "\r\n".join(["\ufeffid,text,label,probability", *rows, ""])
    (folder / "in.csv").write_bytes(content.encode())
    rows = predicted(trained("single"), "in.csv")
    assert list(rows[0]) == ["id", "text", "label", "probability", "predicted_label", "predicted_probability",
                             "probability_bad", "probability_good"]  # fmt: skip
    assert [row["id"] for row in rows] == ["7", "8", "9", ""]
    assert [row["text"] for row in rows[:3]] == ["a joy, really", "", "two\r\nlines, dull"]
    assert [bool(row["predicted_label"]) for row in rows] == [True, False, True, False]
    assert float(rows[0]["probability_bad"]) + float(rows[0]["probability_good"]) == pytest.approx(1, abs=1e-5)
    said = capsys.readouterr()
    assert "1 row(s) without a prediction, empty text: in.csv:3" in said.err
    assert "2 fields instead of 4: in.csv:6" in said.err


def test_rows_come_back_in_order_over_several_windows(trained, folder, monkeypatch):
    from llmtune.commands import predict

    monkeypatch.setattr(predict, "WINDOW_ROWS", 7)
    monkeypatch.setattr(predictor, "CHUNK_ROWS", 3)
    texts = [f"Film {i}" + " was fine" * (i * 5 % 11) for i in range(40)]
    (folder / "in.jsonl").write_text("".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts)))
    rows = predicted(trained("single"), "in.jsonl", out="out.jsonl")
    assert [row["text"] for row in rows] == texts
    assert [row["n"] for row in rows] == list(range(40))
    alone = []
    for i in (0, 13, 39):
        (folder / "one.jsonl").write_text(json.dumps({"text": texts[i]}))
        alone += predicted(trained("single"), "one.jsonl", out="one_out.jsonl")
        assert alone[-1]["probability"] == pytest.approx(rows[i]["probability"], abs=1e-5)


def test_json_rows_with_different_keys_keep_all_of_them(trained, folder):
    (folder / "in.jsonl").write_text('{"text": "fine", "n": 1.50}\n{"text": "dull", "more": {"a": [1, true]}}\n')
    rows = predicted(trained("single"), "in.jsonl")
    assert [row["n"] for row in rows] == ["1.50", ""]
    assert rows[1]["more"] == '{"a": [1, true]}'
    rows = predicted(trained("single"), "in.jsonl", out="out.jsonl")
    assert rows[0]["n"] == 1.5
    assert rows[1]["more"] == {"a": [1, True]}
    assert "n" not in rows[1]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("A joy, really\n\nDull\n", ["A joy, really", "", "Dull"]),
        ("[sic] a joy\r\nDull", ["[sic] a joy", "Dull"]),
        ("id,text\n1,A joy\n2,Dull\n", ["A joy", "Dull"]),
        ("\ufefftext\nA joy\nDull\n", ["A joy", "Dull"]),
    ],
)
def test_standard_input_is_text_or_csv_and_standard_output_holds_rows_only(content, texts, trained, stdin, capfd):
    stdin(content)
    assert cli.main(["predict", str(trained("single"))]) == 0
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert [row["text"] for row in rows] == texts
    assert all(bool(row["label"]) == bool(row["text"]) for row in rows)


def test_standard_input_of_json_lines_answers_in_json_lines(trained, stdin, capfd):
    stdin('{"text": "A joy", "id": 7}\n{"text": null}\n')
    assert cli.main(["predict", str(trained("single")), "-"]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert rows[0]["id"] == 7
    assert rows[0]["label"] in ("good", "bad")
    assert rows[1]["label"] is None


def test_lines_flag_takes_what_looks_like_json_as_text(trained, stdin, capfd):
    stdin('{"text": "A joy"}\n')
    assert cli.main(["predict", str(trained("single")), "--lines", "--format", "jsonl"]) == 0
    assert json.loads(capfd.readouterr().out)["text"] == '{"text": "A joy"}'


def test_pairs_from_standard_input_are_csv_or_json(trained, stdin, capfd):
    run = str(trained("pairs"))
    stdin("second,first\nIt was fine.,A joy\n")
    assert cli.main(["predict", run]) == 0
    assert capfd.readouterr().out.startswith("second,first,label\nIt was fine.,A joy,")
    stdin("one text\n")
    assert cli.main(["predict", run, "--lines"]) == 2
    assert "each row needs text and text_pair; give CSV with a header, or JSONL" in capfd.readouterr().err


def test_labels_that_hold_a_comma_are_written_as_json(trained, folder):
    rows = predicted(trained("multi"), trained("multi").parent / "test.jsonl", out="out.csv")
    names = ("bad", "good", "good, odd", "odd")
    for row in rows:
        likely = [name for name in names if float(row[f"probability_{name}"]) >= 0.5]
        assert json.loads(row["predicted_label"]) == likely


def test_missing_column_shows_the_columns_and_what_to_type(trained, folder, capsys):
    (folder / "in.csv").write_text("id,body text\n1,A joy\n")
    run = str(trained("pairs"))
    assert cli.main(["predict", run, "in.csv", "-o", "out.csv"]) == 2
    said = capsys.readouterr().err
    assert "data.columns.text: in.csv has no column 'first'; its columns: 'id' (such as '1'), 'body text'" in said
    assert "type data.columns.text_pair=NAME" in said
    assert not (folder / "out.csv").exists()
    assert cli.main(["predict", str(trained("single")), "in.csv", "-o", "out.csv", "data.columns.text=body text"]) == 0


def test_plain_text_file_and_a_copied_model_folder(trained, folder, capsys):
    shutil.copytree(trained("single") / "model", folder / "copy")
    (folder / "in.txt").write_text("A joy\n\nDull\n")
    rows = predicted("copy", "in.txt")
    assert [row["text"] for row in rows] == ["A joy", "", "Dull"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing was given"),
        (["nowhere", "in.csv"], "there is no such folder"),
        (["RUN", "absent.csv"], "input: 'absent.csv' does not exist"),
        (["RUN", "in.csv", "-o", "out.xls"], "does not tell a format"),
        (["RUN", "in.csv", "--out=x"], "no such flag"),
        (["RUN", "in.csv", "optimizer.lr=1"], "can't be set for a trained model"),
        (["RUN", "in.csv", "data.limit=3"], "data.limit: has no say here"),
        (["RUN", "in.csv", "data.colums.text=a"], "unknown key"),
        (["RUN", "in.csv", "hardware.processes=2"], "one process"),
        (["RUN", "in.csv", "hardware.device=tpu"], "allowed: auto, cpu, cuda, mps"),
    ],
)
def test_mistakes_are_told_with_exit_code_2(words, message, trained, folder, capsys):
    (folder / "in.csv").write_text("text\nA joy\n")
    assert cli.main(["predict", *(str(trained("single")) if word == "RUN" else word for word in words)]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert not said.out


def test_damaged_model_is_told(trained, folder, capsys):
    shutil.copytree(trained("single") / "model", folder / "model")
    weights = folder / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (folder / "in.txt").write_text("A joy\n")
    assert cli.main(["predict", "model", "in.txt"]) == 2
    assert "can't be opened" in capsys.readouterr().err


def test_help_loads_nothing_heavy(capsys):
    assert cli.main(["predict", "--help"]) == 0
    assert "llmtune predict DIR [FILE]" in capsys.readouterr().out


def test_the_input_is_not_overwritten(trained, folder, capsys):
    (folder / "in.csv").write_text("text\nfine\n")
    assert cli.main(["predict", str(trained("single")), "in.csv", "-o", "./in.csv"]) == 2
    assert "-o: ./in.csv is the input; another file" in capsys.readouterr().err
    assert (folder / "in.csv").read_text() == "text\nfine\n"

"""`llmtune evaluate`: the scores of the run again, on any rows, and where the model goes wrong; nothing overwritten."""

from __future__ import annotations

import json

import pytest

from llmtune import cli


def evaluated(run, *words):
    out = f"{len(words)}.json"
    assert cli.main(["evaluate", str(run), f"out={out}", *words]) == 0
    with open(out, encoding="utf-8") as file:
        return json.load(file)


@pytest.mark.parametrize("kind", ["single", "multi", "pairs"])
def test_test_scores_are_those_of_the_run(kind, trained, folder, capsys):
    report = evaluated(trained(kind))
    before = json.loads((trained(kind) / "result.json").read_text())["test"]
    assert report["scores"] == pytest.approx(before, abs=1e-4)
    assert report["rows"] == 21
    kept = (trained(kind) / "predictions.jsonl").read_text().splitlines()
    again = (folder / "0.jsonl").read_text().splitlines()
    assert [json.loads(row)["text"] for row in again] == [json.loads(row)["text"] for row in kept]
    assert "were cut" in capsys.readouterr().out


def test_validation_scores_of_questions_are_at_the_threshold_that_was_found_on_them(folder):
    assert cli.main(["train", "task=qa", "run.dir=asked", "data.limit=60", "train.max_steps=3",
                     "train.eval_every=1", "train.batch_rows=8", "train.verify_model=off", "hardware=cpu",
                     "offline=true"]) == 0  # fmt: skip
    before = json.loads((folder / "asked/result.json").read_text())["validation"]
    assert before["threshold"] == before["best_f1_threshold"] != 0
    assert before["f1"] == before["best_f1"]
    assert evaluated("asked", "split=validation")["scores"] == pytest.approx(before, abs=1e-4)


def test_single_label_shows_classes_confusion_and_errors_with_text(trained, folder, capsys):
    report = evaluated(trained("single"))
    counts = report["confusion"]["counts"]
    assert sum(map(sum, counts)) == 21
    assert [row["rows"] for row in report["classes"]] == [sum(row) for row in counts]
    wrong = counts[0][1] + counts[1][0]
    assert len(report["worst"]) == wrong > 0
    assert [error["probability"] for error in report["worst"]] == sorted(
        (error["probability"] for error in report["worst"]), reverse=True
    )
    said = capsys.readouterr().out
    assert "gold \\ predicted" in said
    assert report["worst"][0]["text"][:20] in said


def test_regression_shows_largest_residuals(trained, folder, capsys):
    report = evaluated(trained("pairs"))
    gaps = [abs(error["gold"] - error["predicted"]) for error in report["worst"]]
    assert gaps == sorted(gaps, reverse=True)
    assert report["residuals"]["max"] == pytest.approx(gaps[0])
    assert "largest residuals" in capsys.readouterr().out


def test_multi_label_has_a_row_for_each_label(trained, folder):
    report = evaluated(trained("multi"))
    assert [row["label"] for row in report["classes"]] == ["bad", "good", "good, odd", "odd"]
    assert "confusion" not in report


def test_reports_get_names_of_their_own(trained, folder):
    run = trained("single")
    for _ in range(2):
        assert cli.main(["evaluate", str(run / "model"), "split=validation"]) == 0
    names = {path.name for path in (run / "evaluations").iterdir()}
    assert names >= {"evaluation-validation.json", "evaluation-validation.jsonl", "evaluation-validation-2.json"}


def test_split_taken_from_train_is_the_one_of_training(trained, folder):
    from llmtune.config.stored import load_config
    from llmtune.preflight import preflight
    from llmtune.run.console import Console
    from llmtune.run.signals import StopRequest

    evaluated(trained("single"), "split=validation")
    prepared = preflight(load_config(trained("single")), Console(quiet=True), StopRequest(), run=trained("single"))
    found = [json.loads(line)["text"] for line in (folder / "1.jsonl").read_text().splitlines()]
    assert found == prepared.splits["validation"]["text"][:]


def test_any_file_with_other_column_names(trained, folder):
    (folder / "other.csv").write_text("review,verdict\nA joy,good\nDull,bad\n")
    words = ["data.test=other.csv", "data.columns.text=review", "data.columns.label=verdict"]
    assert evaluated(trained("single"), *words)["rows"] == 2
    assert cli.main(["evaluate", str(trained("single")), *words]) == 0
    assert (trained("single") / "evaluations" / "evaluation-other.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.test=other.csv"], "label 'goood' is not in the model's labels (1 row(s): other.csv:2)"),
        (["data.test=absent.csv"], "'absent.csv' does not exist"),
        (["split=tset"], "did you mean 'test'?"),
        (["other.csv"], "data.test=other.csv scores a file"),
        (["train.epochs=3"], "allowed: data.KEY, hardware.KEY, split, out"),
        (["out=report.txt"], "out=report.json"),
        (["data.test=other.csv", "data.columns.label=verdict"], "has no column 'verdict'"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(words, message, trained, folder, capsys):
    (folder / "other.csv").write_text("text,label\nA joy,goood\nDull,bad\n")
    before = sorted(path.name for path in trained("single").rglob("*"))
    assert cli.main(["evaluate", str(trained("single")), *words]) == 2
    assert message in capsys.readouterr().err
    after = sorted(path.name for path in trained("single").rglob("*") if path.name != "evaluations")
    assert after == [name for name in before if name != "evaluations"]


def test_rows_are_never_written_over_by_their_predictions(trained, folder, capsys):
    rows = folder / "rows.jsonl"
    rows.write_text('{"text": "warm and bright", "label": "good"}\n{"text": "dull", "label": "bad"}\n')
    before = rows.read_text()
    assert cli.main(["evaluate", str(trained("single")), f"data.test={rows}", "out=rows.json"]) == 2
    assert "rows.jsonl would be written over, and is the rows" in capsys.readouterr().err
    assert rows.read_text() == before


def test_folder_without_a_model_names_the_newest_near(trained, capsys):
    run = trained("single")
    assert cli.main(["evaluate", str(run.parent)]) == 2
    assert f"the newest one near: {run}" in capsys.readouterr().err


def test_run_without_a_model_says_its_status(folder, capsys):
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_text('{"status": "stopped"}')
    assert cli.main(["evaluate", "run"]) == 2
    assert "no model/ yet (its status: stopped)" in capsys.readouterr().err

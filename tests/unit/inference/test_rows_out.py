"""What predict writes: names that don't collide, fields that read back as they were, files that are whole or absent."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os

import pytest

from llmtune.core.errors import LlmtuneError, UserError
from llmtune.data.files.tables import Spelled
from llmtune.data.labels import LabelTable
from llmtune.inference.rows_out import CsvOut, JsonOut, cell, format_for, output, unused
from llmtune.task.classification import Classification, ClassificationTask

PREDICTED = {"label": "no", "probability": 0.75, "probabilities": {"no": 0.75, "yes": 0.25}}


def classifier(*names: str, problem_type: str = "single_label") -> ClassificationTask:
    settings = Classification(
        name="c", kind="classification", problem_type=problem_type, metric="auto", threshold=0.5, pooling="auto"
    )
    task = settings.build()
    task.labels = LabelTable(names, {name: i for i, name in enumerate(names)})
    return task


def test_names_that_are_taken_are_changed_until_they_are_not():
    assert unused(["label", "probability"], ["text"]) == ["label", "probability"]
    assert unused(["label"], ["label", "predicted_label"]) == ["predicted_label_2"]
    assert unused(["probability_a", "probability_a"], []) == ["probability_a", "predicted_probability_a"]


@pytest.mark.parametrize("text", ["a,b", 'say "x"', "two\nlines", "lone\rreturn", "", " blank ", "tab\there", "中文"])
@pytest.mark.parametrize("tab", [False, True])
def test_fields_read_back_as_they_were(text, tab):
    file = io.StringIO(newline="")
    out = CsvOut(file, ["text"], classifier("no", "yes"), tab=tab, joint=",")
    out.write({"text": text}, PREDICTED)
    rows = list(csv.DictReader(io.StringIO(file.getvalue(), newline=""), delimiter="\t" if tab else ","))
    assert rows == [{"text": text, "label": "no", "probability": "0.75", "probability_no": "0.75",
                     "probability_yes": "0.25"}]  # fmt: skip


def test_several_labels_are_joined_unless_a_name_holds_the_mark():
    for names, wanted in ((["a", "b"], "a|b"), (["a", "b|c"], '["a", "b|c"]')):
        file = io.StringIO(newline="")
        out = CsvOut(file, [], classifier(*names, problem_type="multi_label"), tab=False, joint="|")
        out.write({}, {"label": names, "probabilities": dict.fromkeys(names, 0.5)})
        assert list(csv.reader(io.StringIO(file.getvalue())))[1][0] == wanted


@pytest.mark.parametrize(
    ("value", "wanted"), [(None, ""), (True, "true"), (Spelled("1.50"), "1.50"), ([1, {"a": None}], '[1, {"a": null}]')]
)
def test_cells(value, wanted):
    assert cell(value) == wanted


def test_json_numbers_are_numbers_again_and_broken_bytes_stay_valid_json():
    file = io.StringIO()
    out = JsonOut(file, ["n", "label"], classifier("no", "yes"))
    out.write({"n": [Spelled("10000000000000000000001"), Spelled("-0.5")], "label": "caf\udce9"}, PREDICTED)
    out.write({}, None)
    first, second = map(json.loads, file.getvalue().encode("utf-8").splitlines())
    assert first["n"] == [10000000000000000000001, -0.5]
    assert first["predicted_label"] == "no"
    assert first["probabilities"] == {"no": 0.75, "yes": 0.25}
    assert second == {"predicted_label": None, "probability": None, "probabilities": None}


def test_format_comes_from_the_name_then_the_flag_then_the_input():
    assert format_for("a.TSV", None, True) == "tsv"
    assert format_for("a.out", "jsonl", False) == "jsonl"
    assert format_for(None, None, True) == "jsonl"
    assert format_for("-", None, False) == "csv"
    with pytest.raises(UserError, match="does not tell a format"):
        format_for("a.xlsx", None, False)
    with pytest.raises(UserError, match="allowed: csv, tsv, jsonl"):
        format_for(None, "xml", False)


def test_a_file_takes_its_name_only_when_it_is_whole(tmp_path):
    target = tmp_path / "out.csv"
    target.write_text("old")
    with contextlib.suppress(RuntimeError), output(str(target)) as file:
        file.write("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.csv"]
    with pytest.raises(LlmtuneError, match="can't be written"), output(str(tmp_path / "none" / "out.csv")):
        pass

"""Known solutions pass their own tests in the sandbox: those of the shipped rows, of HumanEval and of MBPP."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from llmtune.core.errors import ConfigError
from llmtune.data.forms.programs import assembled, fault_of
from llmtune.data.forms.programs import tests_of as source_of
from llmtune.data.rows import read_splits
from llmtune.scoring.sandbox import Program, Sandbox, Verdict
from llmtune.task.code import CodeTask
from tests.tiny import config_of


@pytest.fixture(scope="module")
def box() -> Sandbox:
    try:
        return Sandbox(workers=2)
    except ConfigError as error:
        pytest.skip(f"programs can't be contained here: {error}")


def canonical(box: Sandbox, *words: str, split: str = "train", stops: tuple[str, ...] = ()) -> list[Verdict]:
    """Verdicts on the known answers of a split, put together as those of a model are."""
    shares = ["data.validation_share=0", "data.test_share=0"] if words else []
    data = config_of("task=code", *words, *shares).data
    rows = read_splits(data, CodeTask.roles, only=[split]).splits[split]
    found = []
    for row in rows:
        tests = source_of(row["tests"])
        assert tests is not None
        program = assembled(row["prompt"], json.loads(row["response"])[0], stops, row.get("entry_point"))
        assert fault_of(program) is None, program
        found.append(Program(program, tests, row.get("entry_point")))
    assert len({program.source for program in found}) > 0.95 * len(found)
    return box.run_all(found)


def failures(verdicts: list[Verdict]) -> list[Any]:
    return [(place, verdict.reason) for place, verdict in enumerate(verdicts) if not verdict.passed]


@pytest.mark.slow
@pytest.mark.parametrize(("split", "least"), [("train", 450), ("validation", 60), ("test", 60)])
def test_shipped_programs_pass_their_tests(box: Sandbox, split: str, least: int) -> None:
    stops = tuple(config_of("task=code").task.stop)
    verdicts = canonical(box, split=split, stops=stops)
    assert len(verdicts) >= least
    assert failures(verdicts) == []


@pytest.mark.slow
def test_the_solutions_of_humaneval_all_pass(box: Sandbox, data_folder: Path) -> None:
    """pass@1 = 1.0; its columns are found by their names."""
    stops = tuple(config_of("task=code").task.stop)
    file = data_folder / "humaneval" / "HumanEval.jsonl.gz"
    verdicts = canonical(box, "data=files", f"data.train={file}", stops=stops)
    assert (len(verdicts), failures(verdicts)) == (164, [])


@pytest.mark.slow
def test_humaneval_fails_where_nothing_is_done(box: Sandbox, data_folder: Path) -> None:
    import gzip

    with gzip.open(data_folder / "humaneval" / "HumanEval.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file][:40]
    programs = [Program(row["prompt"] + "    return None\n", row["test"], row["entry_point"]) for row in rows]
    assert not any(verdict.passed for verdict in box.run_all(programs))


@pytest.mark.slow
def test_the_solutions_of_mbpp_all_pass(box: Sandbox, data_folder: Path) -> None:
    tests = "data.columns.tests=[test_setup_code,test_list]"
    verdicts = canonical(box, "data=files", f"data.train={data_folder / 'mbpp' / 'mbpp.jsonl'}", tests)
    assert (len(verdicts), failures(verdicts)) == (974, [])


FORMS = {
    "csv": ("Aufgabe", "Lösung", "Prüfung"),
    "json": ("item.q", "item.a.code", "meta.unit"),
    "jsonl": ("turns.0", "turns.1", "asserts"),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_own_files_are_read_by_naming_columns_alone(form: str, tmp_path: Path) -> None:
    rows = [(f"def plus_{n}(x):\n", f"    return x + {n}\n", [f"assert plus_{n}(1) == {n + 1}"]) for n in range(30)]
    path = tmp_path / f"own.{form}"
    if form == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=";")
            writer.writerows([FORMS["csv"], *((*row[:2], json.dumps(row[2])) for row in rows)])
    elif form == "json":
        nested = [{"item": {"q": q, "a": {"code": a}}, "meta": {"unit": "\n".join(t)}} for q, a, t in rows]
        path.write_text(json.dumps(nested))
    else:
        path.write_text("\n".join(json.dumps({"turns": row[:2], "asserts": row[2]}) for row in rows))
    names = dict(zip(("prompt", "response", "tests"), FORMS[form]))
    words = [f"data.columns.{role}={name}" for role, name in names.items()]
    data = config_of("task=code", "data=files", f"data.train={path}", "data.test_share=0", *words).data
    read = read_splits(data, CodeTask.roles, only=["train"]).splits["train"]
    found = {(row["prompt"], json.loads(row["response"])[0], source_of(row["tests"])) for row in read}
    assert len(found) == 27
    assert found <= {(prompt, answer, tests[0]) for prompt, answer, tests in rows}

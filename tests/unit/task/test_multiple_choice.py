"""Multiple choice: forms of labels, sequences of a row, loss over unequal numbers of choices, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from llmtune.core.errors import ConfigError, DataError
from llmtune.data.rows import RawSplits
from llmtune.task.multiple_choice import MultipleChoice
from tests.tiny import prepared_of

datasets = pytest.importorskip("datasets")


def task_of(**changes: Any) -> Any:
    settings = {"name": "multiple_choice", "kind": "multiple_choice", "metric": "accuracy", "label_form": "auto"}
    return MultipleChoice(**{**settings, **changes}).build()


def raw(*labels: Any, choices: tuple[str, ...] = ("red", "green", "blue"), **splits: Any) -> RawSplits:
    def rows(found: Any) -> Any:
        return datasets.Dataset.from_dict({
            "choices": [json.dumps(choices) for _ in found], "label": [json.dumps(str(label)) for label in found],
            "file": ["rows.jsonl"] * len(found), "line": list(range(1, len(found) + 1)),
        })  # fmt: skip

    return RawSplits({"train": rows(labels), **{name: rows(found) for name, found in splits.items()}}, {}, "x")


@pytest.mark.parametrize(
    ("labels", "form", "targets"),
    [
        ((0, 2, 1), "from_0", [0, 2, 1]),
        ((1, 3, 2), "from_1", [0, 2, 1]),
        (("A", "c", "B"), "letter", [0, 2, 1]),
        (("red", "blue", "green"), "text", [0, 2, 1]),
    ],
)
def test_forms_of_labels(labels: tuple[Any, ...], form: str, targets: list[int]) -> None:
    task = task_of()
    labelled = task.read_labels(raw(*labels, test=labels[:1]), None, None)
    assert task.form == form
    assert labelled.targets == {"train": targets, "test": targets[:1]}
    assert labelled.report["train"]["counts"] == {"choice 0": 1, "choice 1": 1, "choice 2": 1}
    assert bool(labelled.warnings) == (form == "from_1")
    again = task_of()
    again.restore(task.to_json())
    assert again.form == form


def test_choices_that_are_numbers_are_numbered() -> None:
    task = task_of()
    assert task.read_labels(raw(0, 1, choices=("1", "0")), None, None).targets["train"] == [0, 1]
    assert task.form == "from_0"
    assert task_of(label_form="text").read_labels(raw(0, 1, choices=("1", "0")), None, None).targets["train"] == [1, 0]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (raw(0, 3), "rows.jsonl:2: the label '3' is no number from 0 to 2"),
        (raw("A", "D"), "rows.jsonl:2: the label 'D' is no letter from A to C"),
        (raw("red", "pink"), "rows.jsonl:2: the label 'pink' is none of the choices: 'red', 'green', 'blue'"),
        (raw("red", choices=("red", "red")), "rows.jsonl:1: the label 'red' is 2 of the choices"),
        (raw(0, 0, choices=("red",)), "rows.jsonl:1: 1 choice; there must be at least 2"),
        (raw(0, 1, test=("B",)), "rows.jsonl:1: the label 'B' is no number from 0 to 2"),
    ],
)
def test_wrong_labels(rows: RawSplits, said: str) -> None:
    with pytest.raises(DataError) as error:
        task_of().read_labels(rows, None, None)
    assert said in str(error.value)
    assert "row(s) can't be used; labels were read as" in str(error.value)


class Letters:
    truncation_side = "right"

    def __call__(self, one: list[str], two: list[str] | None = None, **options: Any) -> dict[str, list[list[int]]]:
        pairs = zip(one, two or [""] * len(one))
        return {"input_ids": [[1, *map(ord, left), 2, *map(ord, right)] for left, right in pairs]}


@pytest.mark.parametrize(
    ("columns", "sequences"),
    [
        (
            {"text": ["t", "u"], "question": ["q", "r"]},
            [("t", "q a"), ("t", "q b"), ("u", "r c"), ("u", "r d"), ("u", "r e")],
        ),
        ({"question": ["q", "r"]}, [("q", "a"), ("q", "b"), ("r", "c"), ("r", "d"), ("r", "e")]),
        (
            {"text": ["t", "u"], "question": [None, "r"]},
            [("t", "a"), ("t", "b"), ("u", "r c"), ("u", "r d"), ("u", "r e")],
        ),
        ({}, [("a", ""), ("b", ""), ("c", ""), ("d", ""), ("e", "")]),
    ],
)  # fmt: skip
def test_sequences_of_a_row(columns: dict[str, Any], sequences: list[tuple[str, str]]) -> None:
    made = task_of().encoder(Letters())({**columns, "choices": ['["a", "b"]', '["c", "d", "e"]']}, None)
    assert [len(cuts) for cuts in made["cuts"]] == [2, 3]
    ids = [number for row in made["input_ids"] for number in row]
    assert ids == [number for one, two in sequences for number in (1, *map(ord, one), 2, *map(ord, two))]
    assert [sum(cuts) for cuts in made["cuts"]] == [len(row) for row in made["input_ids"]]


@pytest.fixture(scope="module", params=["pieces", "bytes"])
def words(request: pytest.FixtureRequest) -> Any:
    """Tokenizers for which each word is a token: with special tokens around a pair as BERT's, and without any."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["[UNK]", "[CLS]", "[SEP]", *(f"{letter}{i}" for letter in "tqab" for i in range(100))]
    made = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if request.param == "pieces":
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")


def run_of(letter: str, count: int) -> str:
    return " ".join(f"{letter}{i}" for i in range(count))


@pytest.mark.parametrize(
    ("text", "question", "choice"),
    [
        (60, 10, 3),  # the text loses its end
        (60, 70, 1),  # the text goes, the question loses its beginning
        (0, 90, 3),  # a question alone loses its beginning
        (60, 61, 70),  # a choice that is too long is read alone
    ],
)
def test_choices_are_the_last_to_be_cut(words: Any, text: int, question: int, choice: int) -> None:
    choices = [run_of("a", choice), run_of("b", choice)]
    columns = {"question": [run_of("q", question)], "choices": [json.dumps(choices)]}
    if text:
        columns["text"] = [run_of("t", text)]
    encoder = task_of().encoder(words)
    made = encoder(columns, 64)
    assert made["cuts"] == [[64, 64]]
    one, two = (words.convert_ids_to_tokens(made["input_ids"][0][start : start + 64]) for start in (0, 64))
    assert [word.replace("a", "b") for word in one] == two != one
    of = {letter: [int(word[1:]) for word in one if word[0] == letter] for letter in "tqa"}
    most = 64 - words.num_special_tokens_to_add(pair=True)
    assert of["a"] == list(range(min(choice, most)))
    room = most - len(of["a"])
    assert of["q"] == list(range(question))[question - min(question, room) :]
    assert of["t"] == list(range(room - len(of["q"])))
    assert encoder.told() == []


def test_choices_that_are_alike_after_the_cut_are_told(words: Any) -> None:
    encoder = task_of().encoder(words)
    long = run_of("a", 90)
    encoder({"question": ["q1", "q1"], "choices": [json.dumps([f"{long} b1", f"{long} b2"]), '["a1", "b1"]']}, 64)
    (said,) = encoder.told()
    assert said.startswith("1 row(s) have different choices that are alike in their first data.max_tokens tokens, as '")
    assert encoder.told() == []


def test_loss_over_unequal_numbers_of_choices() -> None:
    task = task_of()
    targets = task.collate_targets([1, 0], [[4, 4], [4, 4, 4]])
    logits_R1 = torch.tensor([[1.0], [2.0], [0.5], [0.0], [-1.0]], requires_grad=True)
    first, second = torch.tensor([1.0, 2.0]).log_softmax(0), torch.tensor([0.5, 0.0, -1.0]).log_softmax(0)
    found = task.loss(logits_R1, targets)
    assert found.total.item() == pytest.approx(-(first[1] + second[0]).item())
    assert float(found.count) == 2
    found.total.backward()
    assert torch.isfinite(logits_R1.grad).all()
    shared = task.loss(logits_R1, targets, torch.tensor([0.0, 3.0]))
    assert shared.total.item() == pytest.approx(-3 * second[0].item())
    assert float(shared.count) == 3
    task.set_loss(SimpleNamespace(label_smoothing=0.2, class_weights="none", focal_gamma=0.0), [])
    smoothed = -(0.8 * first[1] + 0.2 * first.mean()) - (0.8 * second[0] + 0.2 * second.mean())
    assert task.loss(logits_R1, targets).total.item() == pytest.approx(smoothed.item())


def test_divergence_over_unequal_numbers_of_choices() -> None:
    task = task_of()
    targets = task.collate_targets([1, 0], [[4, 4], [4, 4, 4]])
    one, two = torch.tensor([[1.0], [2.0], [0.5], [0.0], [-1.0]]), torch.zeros(5, 1)
    expected = sum(
        float(((p.exp() - q.exp()) * (p - q)).sum()) / 2
        for p, q in ((one[rows, 0].log_softmax(0), two[rows, 0].log_softmax(0)) for rows in (slice(0, 2), slice(2, 5)))
    )
    assert task.divergence(one, two, targets).total.item() == pytest.approx(expected)
    assert task.divergence(one, one, targets).total.item() == 0


def test_what_comes_out_of_a_row() -> None:
    columns = {
        "choices": ['["red", "green"]', '["a", "b", "c"]'],
        "file": ["f", "f"],
        "line": [1, 2],
        "text": ["t", "u"],
    }
    outputs = [np.array([[0.0], [1.0]]), np.array([[3.0], [1.0], [2.0]])]
    chunk = SimpleNamespace(columns=columns, outputs=outputs, targets=[1, 2], start=0)
    predictions = SimpleNamespace(chunks=lambda: iter([chunk]), some=lambda rows: SimpleNamespace(
        columns={name: [values[row] for row in rows] for name, values in columns.items()},
        outputs=[outputs[row] for row in rows], targets=[chunk.targets[row] for row in rows]))  # fmt: skip
    task = task_of()
    first, second = task.decode(chunk)
    assert (first["choice"], first["index"], second["choice"]) == ("green", 1, "a")
    assert sum(second["probabilities"]) == pytest.approx(1)
    assert second["probability"] == max(second["probabilities"])
    assert task.table(first) == [first[name] for name in task.table_names]
    assert task.score(predictions)["accuracy"] == 0.5
    assert task.score(predictions)["mrr"] == 0.75
    judged = task.judge(predictions, 5)
    assert [(worst["line"], worst["gold"], worst["predicted"]) for worst in judged["worst"]] == [(2, "c", "a")]
    assert judged["tables"][0]["rows"] == [[0, 0, 1], [1, 1, 1], [2, 1, 0]]


def test_what_is_for_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"type train\.focal_gamma=0"):
        task_of().set_loss(SimpleNamespace(label_smoothing=0.0, class_weights="none", focal_gamma=2.0), [])


def test_training_rows_and_rows_to_predict_have_the_same_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTUNE_CACHE", str(tmp_path))
    prepared = prepared_of(
        "task=multiple_choice", "model.architecture.hidden_size=16", "model.architecture.intermediate_size=32",
        "hardware.threads=1", "hardware.device=cpu",
    )  # fmt: skip
    rows = prepared.splits["test"]
    encode = prepared.task.encoder(prepared.tokenizer)
    columns = {name: rows[name][:] for name in ("text", "question", "choices")}
    assert encode(columns, None)["input_ids"] == rows["input_ids"][:]
    assert [len(cuts) for cuts in rows["cuts"][:]] == [len(json.loads(choices)) for choices in columns["choices"]]


def test_built_in_rows_are_right() -> None:
    folder = Path(__file__).parents[3] / "llmtune" / "samples" / "choices"
    seen = set()
    for split in ("train", "validation", "test"):
        for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            assert 0 <= row["label"] < len(row["choices"]) == len(set(row["choices"])) >= 3
            key = row["text"], row["question"]
            assert key not in seen
            seen.add(key)
    assert len(seen) > 800

"""Tasks of every kind beside another: scored on validation and test, opened again, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from llmtune.cli import main
from llmtune.config.locate import conf_dir
from llmtune.core.errors import UserError
from tests.tiny import TINY, config_of, prepared_of, trainer_of, write_rows

BOTH = "objective=[supervised,auxiliary]"
SHORT = ("data.max_tokens=160", "data.max_truncated_share=1", "train.max_steps=2", "train.batch_rows=6",
         "train.verify_model=here", "offline=true")  # fmt: skip
ENCODER = ("similarity", "ner", "qa", "rerank", "multiple_choice", "embedding")
DECODER = ("sentiment", "pos", "translate", "maths")
GPT2 = ("model=tiny_gpt2", "model.architecture.n_embd=16", "model.architecture.n_layer=1")
NO_SHAPE = [word for word in TINY if not word.startswith("model.architecture")]
BART = {"model_type": "bart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 200,
        "decoder_start_token_id": 2, "forced_eos_token_id": None}  # fmt: skip


def given_by(recipe: str, **more: Any) -> dict[str, Any]:
    """A shipped task with its rows, as one beside another is given."""
    folder = Path(conf_dir())
    task = yaml.safe_load((folder / f"task/{recipe}.yaml").read_text())
    option = next(choice["override /data"] for choice in task["defaults"] if "override /data" in choice)
    data = yaml.safe_load((folder / f"data/{option}.yaml").read_text())
    columns = {name: column for name, column in data["columns"].items() if column is not None}
    split = task.get("data", {}).get("on_overlength", "truncate")
    own = {key: value for key, value in task["task"].items() if key != "name"}
    rows = {key: data[key] for key in ("train", "validation", "test")}
    return {**columns, **rows, **own, "on_overlength": split, "limit": 24, **more}


def beside(recipe: str, **more: Any) -> str:
    return f"objective.auxiliary.tasks={json.dumps({'other': given_by(recipe, **more)})}"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"), rows=24)


@pytest.mark.parametrize(
    ("kind", "model"),
    [*((kind, TINY) for kind in ENCODER), *((kind, (*NO_SHAPE, *GPT2)) for kind in DECODER)],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_kind_is_scored_and_opens_again(
    kind: str, model: tuple[str, ...], rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = {"max_new_tokens": 6} if kind in ("translate", "maths") else {}
    words = [*model, *rows, BOTH, beside(kind, **more), *SHORT, "run.dir=run"]
    assert main(["train", *words]) == 0
    result = json.loads(Path("run/result.json").read_text())
    metric = json.loads(Path("run/model/auxiliary/other/llmtune.json").read_text())["metric"]
    assert metric in result["auxiliary"]["other"]
    tested = result["auxiliary_test"]["other"]
    # its folder knows where its rows lie
    assert main(["evaluate", "run/model/auxiliary/other", "out=report.json", "hardware.device=cpu"]) == 0
    report = json.loads(Path("report.json").read_text())
    assert report["scores"] == pytest.approx(tested, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("model", [(*NO_SHAPE, *GPT2), (*NO_SHAPE, f"model.architecture={json.dumps(BART)}")],
                         ids=["gpt2", "bart"])  # fmt: skip
def test_a_task_that_writes_has_one_of_classes_beside_it(model: tuple[str, ...], tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [word for word in model if word not in ("task=sentiment", "data=files")]
    assert main(["train", "task=translate", *words, "data.limit=24", "task.max_new_tokens=6", BOTH,
                 beside("sentiment"), *SHORT, f"run.dir={run}"]) == 0  # fmt: skip
    result = json.loads((run / "result.json").read_text())
    assert result["metric"] in result["test"]
    assert "accuracy" in result["auxiliary_test"]["other"]


def test_words_beside_a_classifier_are_those_of_its_own_table(rows: list[str], tmp_path: Path) -> None:
    words = [*NO_SHAPE, *GPT2, *rows, BOTH, beside("translate", max_new_tokens=4), *SHORT]
    trainer = trainer_of(prepared_of(*words), tmp_path / "run")
    network = trainer.composite
    other = network.objectives["auxiliary/other"].model
    assert other.get_output_embeddings().weight is network.model.get_input_embeddings().weight
    batch = next(batch for batch in trainer.feed.at(0) if batch.feed == "auxiliary/other")
    network.eval()
    loss = network(batch)["auxiliary/other"]
    plain = other(**{name: batch.views["clean"][name] for name in ("input_ids", "attention_mask")
                     if name in batch.views["clean"]}).logits[batch.views["clean"]["wanted"].bool()]  # fmt: skip
    expected = torch.nn.functional.cross_entropy(plain, batch.targets["label"], reduction="sum")
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-4)
    assert loss.count.item() == len(batch.targets["label"])


def test_the_mean_of_all_tasks_decides_where_it_shall(rows: list[str], tmp_path: Path) -> None:
    words = [*TINY, *rows, BOTH, beside("ner"), *SHORT, "train.eval_every=1", "objective.auxiliary.best_by=mean"]
    assert main(["train", *words, f"run.dir={tmp_path / 'run'}"]) == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["metric"] == "mean_score"
    for own, others in (("validation", "auxiliary"), ("test", "auxiliary_test")):
        mean = (result[own]["accuracy"] + result[others]["other"]["f1"]) / 2
        assert result[own]["mean_score"] == pytest.approx(mean)
    assert result["best"]["score"] == pytest.approx(result["validation"]["mean_score"])


def test_tasks_come_from_a_file_or_are_shipped(rows: list[str], tmp_path: Path) -> None:
    file = tmp_path / "tasks.yaml"
    file.write_text(yaml.safe_dump({"words": given_by("ner"), "pairs": given_by("nli")}))
    prepared = prepared_of(*TINY, *rows, BOTH, f"objective.auxiliary.tasks={file}")
    assert set(prepared.feeds) == {"auxiliary/words", "auxiliary/pairs"}
    shipped = prepared_of(*TINY[:1], *TINY[2:], "data.limit=40", BOTH)
    assert set(shipped.feeds) == {"auxiliary/entities", "auxiliary/nli", "auxiliary/similarity"}
    assert all(set(feed.splits) == {"train", "validation", "test"} for feed in shipped.feeds.values())


REFUSED = {
    "shipped ones beside rows of one's own": ((), r"stand beside shipped rows, not beside"),
    "no file": (("objective.auxiliary.tasks=nowhere.yaml",), r"nowhere\.yaml can't be read"),
    "relation": ((beside("relation"),), r"relation"),
    "preference": ((*GPT2, beside("preference")), r"other\.kind: preference asks the model that the run began with"),
    "texts": ((beside("masked_lm"),), r"other\.kind: language_modeling reads plain texts.*objective\.masked_lm\.rows"),
    "sound": ((beside("speech"),), r"other"),
    "words beside an encoder": ((beside("translate"),), r"bert models read and don't write; task=other"),
    "a dialogue beside an encoder": ((beside("maths"),), r"bert models don't go on from a text; task=other"),
    "a second stack": (("model=tiny_t5", beside("translate")), r"other: no such head for t5 models"),
    "a mean of errors and gains": (
        (beside("similarity", metric="mse"), "objective.auxiliary.best_by=mean"),
        r"best_by: mean of .*accuracy \(max\), other mse \(min\)",
    ),
    "a mean of shares and percents": (
        (*GPT2, beside("translate", metric="chrf"), "objective.auxiliary.best_by=mean"),
        r"best_by: mean of .*accuracy \(0 to 1\), other chrf \(0 to 100\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_stand_beside_another_task_is_told_by_its_key(case: str, rows: list[str]) -> None:
    words, told = REFUSED[case]
    tiny = NO_SHAPE if any(word.startswith("model=") for word in words) else TINY
    with pytest.raises(UserError, match=told) as caught:
        prepared_of(*tiny, *rows, BOTH, *words)
    assert "objective.auxiliary" in str(caught.value) or case == "relation" or "task=other" in told


def test_files_of_tasks_are_looked_at_as_if_they_were_typed(rows: list[str], tmp_path: Path) -> None:
    for text, told in (
        ("nli: {trian: a.csv, train: b.csv}", "did you mean 'train'"), ("[1, 2]", "holds no tasks by name"),
        ("a: {b: [", "tasks.yaml"), ("{}", "none is given"),
    ):  # fmt: skip
        file = tmp_path / "tasks.yaml"
        file.write_text(text)
        with pytest.raises(UserError, match=told):
            prepared_of(*TINY, *rows, BOTH, f"objective.auxiliary.tasks={file}")
    with pytest.raises(UserError, match="a mapping, a YAML file of one"):
        config_of(*TINY, *rows, BOTH, "objective.auxiliary.tasks=tasks.csv")

"""Tasks beside the task: gradients, families, what is refused, what is scored and left behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from llmtune.cli import main
from llmtune.core.errors import ConfigError, UserError
from tests.tiny import TINY, config_of, prepared_of, trainer_of, write_rows

BOTH = "objective=[supervised,auxiliary]"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs with three labels, by columns of other names."""
    folder = tmp_path_factory.mktemp("other")
    rng = np.random.default_rng(0)
    for split, size in (("train", 40), ("validation", 12)):
        lines = [{"premise": " ".join(rng.choice(["grey", "film", "slow", "joy"], 4)), "follows": f"a film {i}",
                  "relation": ["yes", "no", "maybe"][i % 3], "degree": float(rng.random())}
                 for i in range(size)]  # fmt: skip
        (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return folder


def beside(other: Path, **more: object) -> str:
    given = {"train": str(other / "train.jsonl"), "validation": str(other / "validation.jsonl"), "text": "premise",
             "text_pair": "follows", "label": "relation", **more}  # fmt: skip
    return f"objective.auxiliary.tasks={json.dumps({'nli': given})}"


def test_gradient_is_that_of_plain_torch(rows: list[str], other: Path, tmp_path: Path) -> None:
    words = ("train.batch_rows=12", "train.max_steps=1", "model.dropout=0", "objective.supervised.weight=0.7")
    prepared = prepared_of(*TINY, *rows, BOTH, beside(other, weight=0.3), *words)
    trainer = trainer_of(prepared, tmp_path / "run")
    network = trainer.composite
    batches = {batch.feed: batch for batch in trainer.feed.at(0)}
    assert set(batches) == {"task", "auxiliary/nli"}
    result = trainer.stepper.run(0, list(batches.values()), 0.0, lambda: False)
    network.trunk.reset()
    losses = {}
    for name, model in (("task", network.model), ("auxiliary/nli", network.objectives["auxiliary/nli"].model)):
        logits_BC = model(**batches[name].views["clean"]).logits
        losses[name] = torch.nn.functional.cross_entropy(logits_BC, batches[name].targets["label"])
    assert logits_BC.shape[1] == 3
    (0.7 * losses["task"] + 0.3 * losses["auxiliary/nli"]).backward()
    norm = sum(float(p.grad.pow(2).sum()) for p in network.parameters() if p.grad is not None) ** 0.5
    assert result.grad_norm == pytest.approx(norm, rel=1e-5)
    mean = result.sums["auxiliary/nli"] / result.sums["auxiliary/nli/count"]
    assert mean == pytest.approx(losses["auxiliary/nli"].item())


def test_the_backbone_is_one(rows: list[str], other: Path, tmp_path: Path) -> None:
    trainer = trainer_of(prepared_of(*TINY, *rows, BOTH, beside(other)), tmp_path / "run")
    network = trainer.composite
    assert network.objectives["auxiliary/nli"].model.bert is network.model.bert
    own = [name for name, _ in network.named_parameters() if name.startswith("own.")]
    assert own == [f"own.auxiliary/nli.model.classifier.{word}" for word in ("weight", "bias")]
    layers = trainer.freezing.layers
    assert layers.own == set(own)
    assert not layers.tied


FAMILIES = {
    "distilbert": {"n_layers": 1, "dim": 16, "hidden_dim": 32, "n_heads": 2},
    "roberta": {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2},
    "gpt2": {"n_layer": 1, "n_embd": 16, "n_head": 2},
    "llama": {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2,
              "num_key_value_heads": 2},
    "electra": {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2,
                "embedding_size": 16},
    "bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_start_token_id": 2},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gets_a_head_and_opens_again(family: str, rows: list[str], other: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    from llmtune.inference.model_folder import open_model, read_card

    shape = json.dumps({"model_type": family, "vocab_size": 300, **FAMILIES[family]})
    words = [*TINY[:2], *TINY[4:], *rows, BOTH, beside(other, label="degree"), f"model.architecture={shape}",
             "train.max_steps=2", "train.batch_rows=8", "train.verify_model=here", "data.max_tokens=40",
             f"run.dir={tmp_path / 'run'}", "offline=true"]  # fmt: skip
    assert main(["train", *words]) == 0
    place = tmp_path / "run/model/auxiliary/nli"
    card = read_card(place)
    assert card["task"]["state"]["problem_type"] == "regression"
    model, missing = open_model(place, AutoModelForSequenceClassification, card)
    assert missing == []
    assert model.config.num_labels == 1


def test_scores_and_what_is_left_behind(
    rows: list[str], other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*TINY, *rows, BOTH, beside(other), "train.max_steps=4", "train.eval_every=2", "train.batch_rows=8",
             "train.verify_model=process", "run.dir=run", "offline=true"]  # fmt: skip
    assert main(["train", *words]) == 0
    said = capsys.readouterr().out
    assert "auxiliary/nli 40 rows" in said
    assert "nli: accuracy" in said
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    scored = {record["step"]: record for record in records if record["split"] == "validation/nli"}
    assert list(scored) == [2, 4]
    result = json.loads((tmp_path / "run/result.json").read_text())
    best = scored[result["best"]["step"]]
    assert result["auxiliary"]["nli"] == {key: best[key] for key in result["auxiliary"]["nli"]}
    report = json.loads((tmp_path / "run/data_report.json").read_text())
    assert report["beside"]["auxiliary/nli"]["splits"]["train"]["rows_kept"] == 40
    # the head is served as any model is
    assert main(["predict", "run/model/auxiliary/nli", str(other / "validation.jsonl"), "-o", "out.jsonl",
                 "hardware.device=cpu"]) == 0  # fmt: skip
    predicted = [json.loads(line)["label"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    given = [json.loads(line)["relation"] for line in (other / "validation.jsonl").read_text().splitlines()]
    assert set(predicted) <= {"yes", "no", "maybe"}
    accuracy = sum(one == two for one, two in zip(predicted, given)) / len(given)
    assert accuracy == pytest.approx(result["auxiliary"]["nli"]["accuracy"])


def test_with_an_adapter_that_is_folded_in(rows: list[str], other: Path, tmp_path: Path) -> None:
    words = [*TINY, *rows, BOTH, beside(other), "adapter=lora", "train.max_steps=3",
             "train.batch_rows=8", "train.verify_model=here", f"run.dir={tmp_path / 'run'}"]  # fmt: skip
    assert main(["train", *words]) == 0


REFUSED = {
    "{}": r"objective.auxiliary.tasks: none is given",
    "{a b: {train: x.csv}}": r"'a b' was given as a name",
    "{nli: 3}": r"objective.auxiliary.tasks.nli: 3 names no rows",
    "{nli: {trian: x.csv, train: y.csv}}": r"tasks.nli.trian: unknown key.*did you mean 'train'\?",
    "{nli: {train: y.csv, limit: many}}": r"tasks.nli.limit: 'many' was given",
    "{nli: {train: y.csv, weight: -1}}": r"tasks.nli.weight",
    "{nli: {train: y.csv, kind: taging}}": r"tasks.nli.kind: there is no part 'taging'",
}


@pytest.mark.parametrize("given", REFUSED)
def test_faults_in_settings_are_told_by_their_key(given: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[given]):
        config_of(*TINY, BOTH, f"objective.auxiliary.tasks={given}")


def test_faults_in_rows_are_told_by_their_key(rows: list[str], other: Path) -> None:
    with pytest.raises(UserError) as error:
        prepared_of(*TINY, *rows, BOTH, beside(other, label="relatoin"))
    assert str(error.value).startswith("objective.auxiliary.tasks.nli.label: ")
    assert "relation" in str(error.value)
    assert "data.columns" not in str(error.value)
    with pytest.raises(UserError, match=r"objective\.auxiliary\.tasks\.nli\.train"):
        prepared_of(*TINY, *rows, BOTH, beside(other / "nowhere"))
    with pytest.raises(UserError, match=r"objective\.auxiliary\.tasks\.nli\.limit"):
        prepared_of(*TINY, *rows, BOTH, beside(other, limit=-2))
    with pytest.raises(UserError, match=r"objective\.auxiliary\.tasks\.nli\.metric"):
        prepared_of(*TINY, *rows, BOTH, beside(other, metric="f2"))

"""The pooled head: what it computes, what its folder holds, that words use it as any other model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llmtune import cli
from llmtune.core.errors import UserError
from llmtune.inference.model_folder import open_model, read_card
from llmtune.inference.verify import compare, probe
from llmtune.model.pooled_head import PooledClassifier
from tests.tiny import TINY, prepared_of, trainer_of, write_rows

SHORT = ("train.batch_rows=12", "train.max_steps=3", "model.dropout=0")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_the_head_reads_what_it_says(pooling: str, rows: list[str], tmp_path: Path) -> None:
    trainer = trainer_of(prepared_of(*TINY, *rows, *SHORT, f"task.pooling={pooling}"), tmp_path)
    model = trainer.composite.model.eval()
    view = trainer.feed.at(0)[0].views["clean"]
    states_BTD = model.backbone(**view).last_hidden_state
    lengths_B = view["attention_mask"].sum(1).tolist()
    wanted = {
        "mean": [states_TD[:length].mean(0) for states_TD, length in zip(states_BTD, lengths_B)],
        "first": [states_TD[0] for states_TD in states_BTD],
        "last": [states_TD[length - 1] for states_TD, length in zip(states_BTD, lengths_B)],
    }[pooling]
    torch.nn.init.normal_(model.classifier.weight)
    wanted_BD = torch.stack(wanted)
    wanted_BD = wanted_BD / wanted_BD.pow(2).mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(model(**view).logits, model.classifier(wanted_BD))
    layers = trainer.freezing.layers
    assert layers.places["model.classifier.weight"] == "head"
    assert not layers.own
    assert layers.num_layers == 2


@pytest.mark.parametrize("adapter", ["none", "lora", "prompt"])
def test_a_run_is_proven_predicts_and_evaluates(adapter: str, rows: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny = [word for word in TINY if word != "train.verify_model=off"]
    words = [f"adapter={adapter}", "task.pooling=mean", "train.verify_model=here", f"run.dir={run}"]
    assert cli.main(["train", *tiny, *rows, *SHORT, *words]) == 0
    backbone = {path.name for path in (run / "model").iterdir()}
    assert {"config.json", "model.safetensors", "head.safetensors", "llmtune.json"} <= backbone
    assert json.loads((run / "model" / "config.json").read_text())["architectures"] == ["BertModel"]
    file = tmp_path / "texts.csv"
    file.write_text("text,label\na warm film,good\nno joy,bad\n")
    assert cli.main(["predict", str(run), str(file), "-o", str(tmp_path / "out.csv")]) == 0
    assert cli.main(["evaluate", str(run), f"data.test={file}"]) == 0


def test_another_model_in_the_folder_is_told(rows: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli.main(["train", *TINY, *rows, *SHORT, "task.pooling=mean", f"run.dir={run}"]) == 0
    folder = run / "model"
    model, missing = open_model(folder, PooledClassifier, read_card(folder))
    assert missing == []
    from transformers import AutoTokenizer

    expected = probe(model, AutoTokenizer.from_pretrained(folder), ["a warm film", "no joy"], None, 32)
    assert compare(folder, expected) == []
    (folder / "head.safetensors").unlink()
    missing = open_model(folder, PooledClassifier, read_card(folder))[1]
    assert missing == ["classifier.bias", "classifier.weight"]
    assert "logits differ" in str(compare(folder, expected))


def test_encoder_decoders_are_refused_before_weights_load(rows: list[str]) -> None:
    shape = "{model_type: bart, d_model: 16, encoder_layers: 1, decoder_layers: 1, encoder_attention_heads: 2, " \
            "decoder_attention_heads: 2, encoder_ffn_dim: 16, decoder_ffn_dim: 16}"  # fmt: skip
    words = [word for word in TINY if "architecture" not in word]
    with pytest.raises(UserError, match=r"type task\.pooling=auto"):
        prepared_of(*words, *rows, f"model.architecture={shape}", "task.pooling=mean")


SETFIT = ("experiment=setfit", "data=files", "model=tiny_bert", "train.epochs=2", "freeze_policy.tune=0.5ep",
          "train.verify_model=off", "hardware.device=cpu", "hardware.threads=1", "optimizer.lr=0.003",
          "model.architecture.hidden_size=16", "model.architecture.intermediate_size=32",
          "model.tokenizer.vocab_size=200")  # fmt: skip


def test_setfit_trains_the_backbone_then_the_head(rows: list[str], tmp_path: Path) -> None:
    trainer = trainer_of(prepared_of(*SETFIT, *rows), tmp_path)
    before = {name: weight.detach().clone() for name, weight in trainer.composite.named_parameters()}

    def moved() -> set[str]:
        now = trainer.composite.named_parameters()
        return {"head" if "classifier" in name else "backbone" for name, weight in now
                if not torch.equal(weight, before[name])}  # fmt: skip

    policy, layers = trainer.freezing.policy, trainer.freezing.layers
    assert policy.steps_of_change == (0, 2)
    assert policy.trainable(layers, 1) > policy.trainable(layers, 2)
    objectives = trainer.composite.objectives
    assert [objectives["supervised"].weight(step) for step in (0, 1, 2, 7)] == [0, 0, 1, 1]
    assert [objectives["cosine_pairs"].weight(step) for step in (0, 1, 2, 7)] == [1, 1, 0, 0]
    trainer.fit()
    assert moved() == {"head", "backbone"}

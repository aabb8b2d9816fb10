"""Every adapter in a run: it trains and the base stays, it reopens with equal logits, it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file

from llmtune.core.errors import Stopped
from llmtune.finish import finish
from llmtune.run.checkpoint import CheckpointStore
from llmtune.run.console import Console
from llmtune.run.rundir import RunDir
from llmtune.run.signals import StopRequest
from llmtune.training.trainer import Trainer
from tests.tiny import prepared_of, sha_of, trainer_of, write_rows
from tests.unit.adapter.tiny_models import ADAPTERS, make_model, words_for

STEPS = 4


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny models with weights, by family."""
    return {family: make_model(family, tmp_path_factory.mktemp(family)) for family in ("bert", "gpt2", "t5")}


def trained(words: list[str], folder: Path, stop: StopRequest | None = None) -> tuple[Any, Trainer]:
    prepared = prepared_of(*words)
    trainer = trainer_of(prepared, folder, stop)
    checkpoint = CheckpointStore(folder / "checkpoints", keep=1).newest_good(print)
    if checkpoint is not None:
        trainer.resume(checkpoint)
    trainer.fit()
    return prepared, trainer


class StopLater(StopRequest):
    """Asks for a stop at the twelfth time that somebody looks."""

    def __init__(self) -> None:
        self.left = 12

    @property
    def name(self) -> str | None:  # type: ignore[override]
        self.left -= 1
        return "SIGTERM" if self.left < 0 else None


RUNS = [("bert", adapter) for adapter in ADAPTERS] + [("gpt2", "dora"), ("gpt2", "prompt"), ("t5", "lora")]


@pytest.mark.parametrize(("family", "adapter"), RUNS)
def test_a_run_leaves_the_base_and_proves_its_model(
    family: str, adapter: str, rows: list[str], models: dict[str, str], tmp_path: Path
) -> None:
    prepared = prepared_of(*words_for(rows, models[family]), f"adapter={adapter}", f"train.max_steps={STEPS}")
    trainer = trainer_of(prepared, tmp_path / "run")
    before = {name: value.detach().clone() for name, value in trainer.composite.named_parameters()}
    trainer.fit()
    layers = trainer.freezing.layers
    moved = {name for name, value in trainer.composite.named_parameters() if not torch.equal(value, before[name])}
    assert moved <= layers.everything
    assert moved & layers.adapters
    assert {"model.classifier.weight", "model.score.weight", "model.classification_head.dense.weight"} & moved
    finish(trainer, prepared, RunDir(tmp_path / "run"), Console(quiet=True))  # train.verify_model=here proves it
    card = json.loads((tmp_path / "run/model/llmtune.json").read_text())
    assert card["adapter"]["settings"]["name"] == adapter
    assert card["adapter"]["merged"] is (adapter in ("lora", "dora", "rslora", "adalora", "ia3"))
    assert (tmp_path / "run/model/adapter").is_dir()


@pytest.mark.parametrize("adapter", ["lora", "adalora"])
def test_stopped_and_resumed_equals_unstopped(
    adapter: str, rows: list[str], models: dict[str, str], tmp_path: Path
) -> None:
    words = [*words_for(rows, models["bert"]), f"adapter={adapter}", "train.max_steps=8", "train.save_every=1",
             "train.keep=9"]  # fmt: skip
    words += ["adapter.every=1"] if adapter == "adalora" else []

    trained(words, tmp_path / "whole")
    with pytest.raises(Stopped):
        trained(words, tmp_path / "parts", StopLater())
    trained(words, tmp_path / "parts")
    files = ["model.safetensors", "optimizer.safetensors", *(["adapter.safetensors"] if adapter == "adalora" else [])]
    for step in ("step-000005", "step-000008"):
        at = [tmp_path / name / "checkpoints" / step for name in ("whole", "parts")]
        there = [file for file in files if (at[0] / file).exists()]
        assert there == (files if step == "step-000005" else files[:2])  # at the end no importance is kept any more
        assert [sha_of(at[0] / file) for file in there] == [sha_of(at[1] / file) for file in there]
    assert sha_of(tmp_path / "whole/metrics.jsonl") == sha_of(tmp_path / "parts/metrics.jsonl")


def test_adalora_ends_with_its_mean_rank(rows: list[str], models: dict[str, str], tmp_path: Path) -> None:
    words = [*words_for(rows, models["bert"]), "adapter=adalora", "train.max_steps=12", "adapter.every=1"]
    _, trainer = trained(words, tmp_path / "run")
    entries = [value for name, value in trainer.composite.named_parameters() if "lora_E" in name]
    kept = sum(int((value != 0).sum()) for value in entries)
    assert sum(len(value) for value in entries) == 12 * len(entries)
    assert kept == 8 * len(entries)
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])["loss/orthogonality"] > 0


@pytest.mark.parametrize("adapter", ["lora", "prompt"])
def test_predict_gives_the_trained_logits(
    adapter: str, rows: list[str], models: dict[str, str], tmp_path: Path
) -> None:
    from llmtune.inference.predictor import Predictor
    from llmtune.inference.run_folder import find_model, settings_of

    words = [*words_for(rows, models["gpt2"]), f"adapter={adapter}", f"train.max_steps={STEPS}"]
    prepared, trainer = trained(words, tmp_path / "run")
    finish(trainer, prepared, RunDir(tmp_path / "run"), Console(quiet=True))
    texts = ["bright and warm", "a dull film with no heart " * 3]
    model = trainer.composite.model.eval()
    place = find_model(str(tmp_path / "run" / "model"))
    found = Predictor(place, settings_of(place, [])).run(datasets.Dataset.from_dict({"text": texts}), None)[0].outcomes
    with torch.inference_mode():
        for row, text in enumerate(texts):
            inputs = prepared.tokenizer(text, return_tensors="pt")
            assert torch.allclose(model(**inputs).logits[0], torch.tensor(found.get(row)), atol=1e-5)


def test_an_adapter_alone_is_small_and_holds_the_head(rows: list[str], models: dict[str, str], tmp_path: Path) -> None:
    words = [*words_for(rows, models["bert"]), "adapter=lora", f"train.max_steps={STEPS}"]
    prepared, trainer = trained(words, tmp_path / "run")
    finish(trainer, prepared, RunDir(tmp_path / "run"), Console(quiet=True))
    weights = load_file(tmp_path / "run/model/adapter/adapter_model.safetensors")
    heads = {name for name in weights if "lora_" not in name}
    assert heads == {f"base_model.model.{name}" for name in (
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias")}  # fmt: skip
    config = json.loads((tmp_path / "run/model/adapter/adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["base_model_name_or_path"]) == (
        "LORA", "SEQ_CLS", models["bert"]
    )  # fmt: skip


def test_what_does_not_fold_in_is_refused_when_its_file_is_of_another_one(
    rows: list[str], models: dict[str, str], tmp_path: Path
) -> None:
    from llmtune.core.errors import ModelError
    from llmtune.inference.predictor import Predictor
    from llmtune.inference.run_folder import find_model, settings_of

    words = [*words_for(rows, models["bert"]), "adapter=prompt", "train.max_steps=1", "train.verify_model=off"]
    prepared, trainer = trained(words, tmp_path / "run")
    finish(trainer, prepared, RunDir(tmp_path / "run"), Console(quiet=True))
    with pytest.raises(ModelError, match=r"was trained with adapter=prompt, which is no part of its weights"):
        prepared_of(*words_for(rows, str(tmp_path / "run/model")))
    card = tmp_path / "run/model/llmtune.json"
    card.write_text(card.read_text().replace('"virtual_tokens": 20', '"virtual_tokens": 19'))
    place = find_model(str(tmp_path / "run" / "model"))
    with pytest.raises(ModelError, match=r"adapter\.safetensors: .* is \(20, 16\), not \(19, 16\)"):
        Predictor(place, settings_of(place, []))


def test_rows_leave_room_for_virtual_tokens(rows: list[str], models: dict[str, str]) -> None:
    from llmtune.core.errors import ConfigError

    words = [*words_for(rows, models["bert"]), "adapter=prompt"]
    assert prepared_of(*words).max_tokens == 512 - 20
    with pytest.raises(ConfigError, match=r"adapter\.virtual_tokens: 500 of the 512 tokens"):
        prepared_of(*words, "adapter.virtual_tokens=500")


@pytest.mark.parametrize(("words", "said"), [
    (["adapter=qlora"], "on a CUDA GPU; this run is on cpu"),
    (["adapter=prefix", "model.attention=flex_attention"], "flex_attention takes no prefix"),
    (["adapter=adalora", "freeze_policy=bottom_layers", "freeze_policy.layers=1"],
     "keeps the adapters of layer 0 still"),
    (["adapter=adalora", "optimizer=schedule_free_adamw"], "what adalora masks would go on.*type optimizer=adamw"),
    (["adapter=prompt", "adapter.init=text", "adapter.text='  '"], "has no token"),
])  # fmt: skip
def test_what_can_not_work_is_told_before_weights_load(
    words: list[str], said: str, rows: list[str], models: dict[str, str]
) -> None:
    from llmtune.core.errors import UserError

    with pytest.raises(UserError, match=said):
        prepared_of(*words_for(rows, models["bert"]), *words)


def test_the_automatic_learning_rate_is_the_adapters(rows: list[str], models: dict[str, str]) -> None:
    words = [word for word in words_for(rows, models["bert"]) if not word.startswith("optimizer.lr")]
    plain, adapted, given = (
        prepared_of(*words, *more).peak_lr for more in ([], ["adapter=lora"], ["adapter=lora", "optimizer.lr=0.5"])
    )
    assert adapted == pytest.approx(10 * plain)
    assert given == 0.5

"""Adapters under heads of ours and tokens of a task's own: what is left opens as what was trained, by peft too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

import llmtune.samples
from llmtune.finish import finish
from llmtune.run.console import Console
from llmtune.run.rundir import RunDir
from llmtune.training.trainer import Trainer
from tests.tiny import prepared_of, trainer_of
from tests.unit.adapter.tiny_models import ADAPTERS, make_model

SHORT = (
    "model=pretrained", "data.limit=24", "data.max_tokens=48", "data.max_truncated_share=1", "hardware.device=cpu",
    "hardware.threads=1", "optimizer.lr=0.003", "train.batch_rows=8", "train.max_steps=2", "train.eval_every=null",
    "train.verify_model=here",
)  # fmt: skip
HEADS = {
    "embedding": [], "sentiment": ["task.pooling=mean"], "ner": [], "crf": ["task=ner", "task.head=crf"],
    "span": ["task=ner", "task.head=span"], "relation": [], "reward": ["task.template=chatml"], "qa": [],
    "multiple_choice": [], "masked_lm": [], "next_sentence": [], "rerank": [], "prompt_classification": [],
}  # fmt: skip
MARKED = ("relation", "reward", "preference")
"""tasks with tokens of their own"""
RUNS = [
    *(("bert", head, "lora") for head in HEADS), *(("bert", "relation", name) for name in ADAPTERS[1:]),
    ("bert", "crf", "adalora"), ("gpt2", "relation", "ia3"), ("gpt2", "reward", "prompt"),
    ("gpt2", "preference", "dora"),
]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny models with weights, by family; the tokenizer of BERT's knows the words of prompts."""
    rows = Path(next(iter(llmtune.samples.__path__)), "reviews", "train.jsonl").read_text(encoding="utf-8").splitlines()
    words = [word for row in rows for word in json.loads(row)["text"].lower().split()] + ["good", "bad", "dull"] * 9
    return {
        "bert": make_model("bert", tmp_path_factory.mktemp("bert"), words, 3000, AutoModelForMaskedLM),
        "gpt2": make_model("gpt2", tmp_path_factory.mktemp("gpt2")),
    }


def words_for(head: str, path: str) -> list[str]:
    words = HEADS.get(head, ["task.template=chatml", "data.max_tokens=512"])
    return [*SHORT, *([] if words and words[0].startswith("task=") else [f"task={head}"]), *words, f"model.path={path}"]


def proven(words: list[str], folder: Path) -> Trainer:
    """A run of two steps whose model was opened again (train.verify_model=here), and its adapter by itself."""
    prepared = prepared_of(*words)
    trainer = trainer_of(prepared, folder)
    trainer.fit()
    finish(trainer, prepared, RunDir(folder), Console(quiet=True))
    return trainer


def rows_of(folder: str | Path) -> torch.Tensor:
    """The table of words in a model's folder: the first that its kin make."""
    names = ("word_embeddings.weight", "wte.weight")
    return next(value for name, value in load_file(Path(folder, "model.safetensors")).items() if name.endswith(names))


@pytest.mark.parametrize(("family", "head", "adapter"), RUNS)
def test_it_opens_as_what_was_trained(
    family: str, head: str, adapter: str, models: dict[str, str], tmp_path: Path
) -> None:
    trainer = proven([*words_for(head, models[family]), f"adapter={adapter}"], tmp_path)
    base, kept = rows_of(models[family]), rows_of(tmp_path / "model")
    assert torch.equal(kept[: len(base)], base)
    assert len(kept) > len(base) if head in MARKED else len(kept) == len(base)
    new: dict[str, Any] = {name: value for name, value in trainer.composite.named_parameters() if "new_rows" in name}
    assert len(new) == (head in MARKED)
    for name, value in new.items():
        assert name in trainer.freezing.layers.adapters
        assert value.abs().sum() > 0
        assert torch.isfinite(kept).all()


def test_base_weights_that_a_pattern_trains_lie_beside_the_adapter(models: dict[str, str], tmp_path: Path) -> None:
    trains = "freeze_policy.trains=[head,lora_A,lora_B,LayerNorm]"
    words = ["adapter=lora", "freeze_policy=pattern", trains, "freeze_policy.frozen=null"]
    proven([*words_for("sentiment", models["bert"]), *words], tmp_path)
    names = {name.rpartition("layer.0.")[2] for name in load_file(tmp_path / "model/adapter/adapter_model.safetensors")}
    assert {"attention.output.LayerNorm.weight", "attention.self.query.lora_A.weight"} <= names
    assert not any("base_layer" in name for name in names)

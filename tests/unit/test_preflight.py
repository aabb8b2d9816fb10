"""What is refused before weights are loaded, so that `train` does not fail in the middle of its start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from transformers import BertConfig, BertForSequenceClassification, BertModel

from llmtune.core.errors import ConfigError, ModelError
from llmtune.model.backbone import load_tokenizer
from llmtune.preflight import preflight
from llmtune.run.console import Console
from llmtune.run.signals import StopRequest
from tests.tiny import TINY, WORDS, config_of, prepared_of, write_rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def test_gradient_checkpointing_that_a_model_lacks(rows: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BertForSequenceClassification, "supports_gradient_checkpointing", False)  # as of XLNet
    with pytest.raises(ConfigError, match=r"train.gradient_checkpointing: transformers has none for bert models"):
        prepared_of(*TINY, *rows, "train.gradient_checkpointing=true")


def test_attention_that_is_not_installed(rows: list[str]) -> None:
    with pytest.raises(ModelError, match=r"model.attention=flash_attention_2 can't serve.*[Ff]lash"):
        prepared_of(*TINY, *rows, "model.attention=flash_attention_2")


def test_tokenizer_of_another_model(rows: list[str], tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(**shape, vocab_size=20)).save_pretrained(tmp_path)
    load_tokenizer(config_of(*TINY).model, [" ".join(WORDS)] * 3).save_pretrained(tmp_path)
    words = ("task=sentiment", "data=files", "model=pretrained", f"model.path={tmp_path}")
    with pytest.raises(ModelError, match=r"gives ids up to \d+, the model knows 20; a tokenizer that belongs"):
        prepared_of(*words, *rows)


def test_patience_that_nothing_can_try(rows: list[str]) -> None:
    without = [rows[0], "data.validation_share=0", "data.test_share=0"]
    with pytest.raises(ConfigError, match=r"train.patience: 3, but there are no validation rows to score"):
        prepared_of(*TINY, *without, "train.patience=3")
    with pytest.raises(ConfigError, match=r"train.patience: set, while eval_every=null scores at the end only"):
        config_of(*TINY, *rows, "train.patience=3", "train.eval_every=null")


def test_room_that_a_run_has_taken_already_counts(
    rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    config = config_of(*TINY, *rows)
    budget = prepared_of(*TINY, *rows).disk_budget
    (tmp_path / "model.safetensors").write_bytes(b"0" * budget)

    def usage(place: Any) -> Usage:
        return Usage(budget // 2)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(ConfigError, match=r"checkpoints may take"):
        preflight(config, Console(quiet=True), StopRequest())
    assert preflight(config, Console(quiet=True), StopRequest(), run=tmp_path).disk_budget == budget


def test_offline_is_said_before_the_library_of_the_hub_is_imported() -> None:
    """It reads the environment once: said later, it would ask the hub all the same."""
    code = (
        "import sys; from llmtune.config.compose import run_job\n"
        "from llmtune.preflight import preflight; from llmtune.run.console import Console\n"
        "from llmtune.run.signals import StopRequest\n"
        "def job(config, cfg, typed):\n"
        "    try: preflight(config, Console(quiet=True), StopRequest())\n"
        "    except Exception: pass\n"
        "    return 0\n"
        "run_job('check', ['task=sentiment', 'offline=true', 'model.path=nowhere/such', 'model=pretrained'], job)\n"
        "from huggingface_hub import constants; sys.exit(0 if constants.HF_HUB_OFFLINE else 1)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=120).returncode == 0

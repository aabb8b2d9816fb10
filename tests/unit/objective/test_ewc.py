"""ewc: weights matter by their squared gradients on old texts, and stay near their start accordingly."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM

from llmtune.core.errors import ConfigError, ModelError
from llmtune.model.language_head import LanguageHead, next_words, word_loss
from llmtune.objective.importance import importances
from llmtune.objective.starting_weights import Nearness, Starts
from tests.unit.objective.small import (
    assert_same_gradients,
    batch_of,
    gradients_of,
    network_of,
    parts_of,
    settings_of,
    task_of,
)
from tests.unit.objective.test_l2_sp import move


def decoder() -> tuple[Any, LanguageHead, list[dict[str, torch.Tensor]]]:
    from transformers import AutoModelForCausalLM

    network = network_of("gpt2")
    head = LanguageHead(AutoModelForCausalLM.from_config(network.config), trained=True)
    ids = batch_of().views["clean"]["input_ids"]
    return network, head, [{"input_ids": row[row != 0][None]} for row in ids]


def test_importance_is_the_mean_squared_gradient_scaled_to_a_mean_of_1() -> None:
    network, head, rows = decoder()
    names = frozenset(name for name, _ in network.named_parameters() if name.startswith("transformer.h"))
    for weight in network.parameters():
        weight.requires_grad_(False)
    found = importances(network, head, names, rows, SimpleNamespace(config=SimpleNamespace(seed=1)))
    assert network.training
    assert not any(weight.requires_grad for weight in network.parameters())
    expected = dict.fromkeys(names, 0.0)
    network.requires_grad_(True)
    for row in rows:
        loss = word_loss(head, network.transformer(**row).last_hidden_state, next_words(row)).total
        for name, grad in gradients_of(network, loss).items():
            if name in names:
                expected[name] = expected[name] + grad**2
    mean = torch.cat([value.flatten() for value in expected.values()]).mean()
    assert found.keys() == names
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value / mean, rtol=1e-3, atol=1e-5)


def test_loss_and_gradient_are_those_of_plain_torch() -> None:
    network, batch = network_of("bert"), batch_of()
    names = frozenset(name for name, _ in network.named_parameters() if "layer.1" in name)
    starts = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    torch.manual_seed(1)
    importance = {name: torch.rand_like(starts[name]) for name in names}
    part = Nearness("ewc", lambda step: 1.0, Starts(network, names), importances=importance)
    move(network)
    found = part.loss(None, batch)  # type: ignore[arg-type]
    pairs = [(weight, name) for name, weight in network.named_parameters() if name in names]
    parts = [(importance[name] * (weight - starts[name]) ** 2).sum() / 2 for weight, name in pairs]
    expected = torch.stack(parts).sum()
    torch.testing.assert_close(found.total / 6, expected)
    assert_same_gradients(gradients_of(network, found.total / 6), gradients_of(network, expected))


def prospect_of(folder: Path | None, head: str = "bert") -> Any:
    prospect = parts_of(network_of(head), task_of())
    prospect.model_config = prospect.network.config
    prospect.config.model = SimpleNamespace(name="x", path=None if folder is None else str(folder), revision=None)
    return prospect


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    settings_of("ewc").check(prospect_of(None))
    network_of("bert").save_pretrained(tmp_path / "plain")
    with pytest.raises(ModelError, match=r"no trained language-model head.*type objective=\[supervised,l2_sp\]"):
        settings_of("ewc").check(prospect_of(tmp_path / "plain"))
    AutoModelForMaskedLM.from_config(network_of("bert").config).save_pretrained(tmp_path / "whole")
    settings_of("ewc").check(prospect_of(tmp_path / "whole"))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"objective.ewc.rows: no file .*old.txt; a file of plain text"):
        settings_of("ewc", rows=str(tmp_path / "old.txt")).check(prospect_of(None))


def test_a_run_that_goes_on_must_find_the_same_old_texts(tmp_path: Path) -> None:
    from llmtune.core.errors import ResumeError
    from llmtune.run.checkpoint import CheckpointStore
    from tests.tiny import TINY, prepared_of, trainer_of, write_rows

    old = tmp_path / "old.txt"
    old.write_text("an old text\nanother one\n")
    words = (*TINY, *write_rows(tmp_path), "objective=[supervised,ewc]", f"objective.ewc.rows={old}",
             "train.max_steps=2", "train.batch_rows=12")  # fmt: skip
    trainer_of(prepared_of(*words), tmp_path / "run").fit()
    old.write_text("an old text\nyet another one\n")
    checkpoint = CheckpointStore(tmp_path / "run" / "checkpoints", keep=1).newest_good(print)
    with pytest.raises(ResumeError, match="rows of ewc changed"):
        trainer_of(prepared_of(*words), tmp_path / "again").resume(checkpoint)

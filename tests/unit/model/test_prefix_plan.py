"""Whether the prefix cache is on is told before the run, with the reason; what can't be is refused if asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from llmtune.core.errors import ConfigError
from llmtune.model.prefix_plan import PrefixPlan
from llmtune.reporting.words import plan_lines
from tests.tiny import TINY, prepared_of, write_rows

PROBE = ("freeze_policy=head_only", "train.epochs=3")
ON = "prefix cache: on: 2 of 2 layers are frozen from the bottom, their output is computed once per row"
CASES: dict[tuple[str, ...], str] = {
    PROBE: ON,
    ("freeze_policy=none",): "off: freeze_policy=none never leaves embeddings and layer 0 both frozen",
    ("freeze_policy=bias_only",): "off: freeze_policy=bias_only never leaves",
    ("freeze_policy=adapters_only", "adapter=lora"): "off: freeze_policy=adapters_only with adapter=lora never leaves",
    ("freeze_policy=top_layers", "freeze_policy.layers=1", "train.epochs=2"): "on: 1 of 2 layers",
    ("freeze_policy=head_only", "train.epochs=1"): r"off: the bottom is frozen for fewer than 1.5 passes over the",
    ("freeze_policy=head_only", "train.epochs=1", "train.prefix_cache=on"): "on: 2 of 2 layers",
    (*PROBE, "train.prefix_cache=off"): "off: train.prefix_cache=off",
    (*PROBE, "hardware.compile=true"): "off: hardware.compile=true compiles the whole backbone",
    (*PROBE, "hardware.deterministic=true"): "off: hardware.deterministic=true",
    (*PROBE, "objective=[supervised,fgm]"): "off: objective fgm changes the embeddings of the rows",
    (*PROBE, "train.prefix_cache_bytes=1000"): r"off: it may take 0.00 GB, 0.00 GB are allowed",
    (*PROBE, "augmentation=[random_swap]"): "off: augmentation=random_swap changes the rows",
    ("freeze_policy=gradual", "freeze_policy.every=3ep", "train.epochs=9"):
        "on: 2 of 2 layers from step 0, 1 of 2 layers from step",
    ("freeze_policy=converging", "freeze_policy.every=1ep", "train.epochs=5"): "on as soon as the lowest layers are",
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def plan_of(*words: str) -> PrefixPlan:
    return prepared_of(*TINY, "train.batch_rows=12", *words).prefix


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_the_reason_is_told(words: tuple[str, ...], rows: list[str]) -> None:
    plan = plan_of(*rows, *words)
    import re

    assert re.search(CASES[words], plan.line), plan.line


def test_check_prints_it(rows: list[str]) -> None:
    assert any(line.startswith(ON) for line in plan_lines(prepared_of(*TINY, *rows, *PROBE)))


@pytest.mark.parametrize("words", [("freeze_policy=none",), (*PROBE, "objective=[supervised,pgd]")])
def test_on_where_it_can_not_be_is_refused(words: tuple[str, ...], rows: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"train\.prefix_cache: on, but .*train\.prefix_cache=auto"):
        plan_of(*rows, *words, "train.prefix_cache=on")


def test_objectives_that_look_inside_switch_it_off(rows: list[str]) -> None:
    class Reading:
        name, feed = "reading", "task"
        wants = ("hidden_states",)

    class Masked:
        name, feed, view = "masked", "task", "masked"

    plan = plan_of(*rows, *PROBE)
    assert plan.without([]) == plan
    without = plan.without([Reading()])
    assert not without.wanted
    assert without.line == "prefix cache: off: objective reading reads hidden_states of the layers below"
    assert plan.without([Masked()]).line == "prefix cache: off: no objective reads the task's rows as they are"


def test_other_devices_only_when_asked(rows: list[str], tmp_path: Path) -> None:
    from llmtune.model.prefix_plan import plan_prefix

    prepared = prepared_of(*TINY, *rows, *PROBE)
    parts = parts_of(prepared)
    policy = prepared.config.freeze_policy
    assert "was not measured; train.prefix_cache=on uses it" in plan_prefix(parts, policy, "cuda", tmp_path).line
    train = dataclasses.replace(prepared.config.train, prefix_cache="on")
    parts.config = dataclasses.replace(prepared.config, train=train)
    assert plan_prefix(parts, policy, "cuda", tmp_path).wanted


def parts_of(prepared: Any) -> Any:
    from types import SimpleNamespace

    from transformers import AutoConfig, AutoModelForSequenceClassification

    from llmtune.model.layers import LayerMap

    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    network = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **shape))
    return SimpleNamespace(
        config=prepared.config, network=network, layers=LayerMap.of(network, "bert"), splits=prepared.splits,
        num_steps=prepared.num_steps, steps_per_epoch=prepared.steps_per_epoch,
    )  # fmt: skip

"""What an optimizer refuses before any weights are loaded, and what to type instead."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from llmtune.config.settings import HardwareSettings
from llmtune.core.errors import ConfigError
from tests.unit.optimizer.test_equations import HERE, settings_of


def prospect(network: nn.Module | None = None, device: str = "cpu", **train: Any) -> Any:
    hardware = HardwareSettings(name="x", device=device, precision="auto", processes=1, threads="auto", compile=False,
                                deterministic=False)  # fmt: skip
    config = SimpleNamespace(hardware=hardware, train=SimpleNamespace(**{"ema": None, "swa": None, **train}))
    return SimpleNamespace(config=config, network=network or nn.Linear(2, 2))


@pytest.mark.parametrize("option", HERE)
def test_usual_settings_are_fine(option: str) -> None:
    settings_of(option).check(prospect())


@pytest.mark.parametrize("option", HERE)
def test_a_ratio_for_lora_needs_lora(option: str) -> None:
    with pytest.raises(ConfigError, match=r"lora_plus_ratio: 16.0 has nothing to act on.*type adapter=lora"):
        settings_of(option, lora_plus_ratio=16.0).check(prospect())
    settings_of(option, lora_plus_ratio=16.0).check(prospect(nn.ModuleDict({"lora_B": nn.Linear(2, 2)})))


def test_8_bits_need_library_and_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("adamw_8bit")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        settings.check(prospect())
    said = [str(fault) for fault in caught.value.faults]
    assert len(said) == 2
    assert "type pip install bitsandbytes" in said[0]
    assert "needs hardware.device=cuda" in said[1]
    assert "optimizer=adafactor" in said[1]


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_schedule_free_keeps_the_only_average(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"train.{name}: .* keeps an average of its own.*type train.{name}=null"):
        settings_of("schedule_free_adamw").check(prospect(**{name: 0.9}))


def test_all_faults_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of("schedule_free_adamw", lora_plus_ratio=4.0).check(prospect(ema=0.9))
    assert [fault.where for fault in caught.value.faults] == ["train.ema", "optimizer.lora_plus_ratio"]  # type: ignore

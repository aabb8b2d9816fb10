"""The hub is asked for only where a name is on it, and once."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from llmtune.core.environment import hub_answers, on_a_hub, set_environment


def test_files_patterns_and_shipped_rows_are_not_on_a_hub(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    assert not on_a_hub(
        [
            str(tmp_path),
            str(tmp_path / "rows.csv"),
            "data/*.csv",
            "./no_folder",
            "gone.csv",
            "builtin:reviews/train.jsonl",
        ]
    )
    assert on_a_hub(["builtin:reviews/train.jsonl", "google-bert/bert-base-uncased"])
    assert on_a_hub(["hub:imdb"])


def test_an_unreachable_hub_is_found_out_by_one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def refuse(address: tuple[str, int], timeout: float) -> socket.socket:
        tries.append(address)
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example:8443")
    assert not hub_answers()
    assert tries == [("hub.example", 8443)]
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    assert hub_answers()


def test_foreign_settings_are_named_and_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert set_environment(offline=True) == ["ACCELERATE_MIXED_PRECISION"]
    import os

    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert "ACCELERATE_MIXED_PRECISION" not in os.environ


def test_ranks_of_another_program_are_taken_out_and_ours_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("LLMTUNE_MEETING", "/somewhere")
    assert set_environment(offline=False) == ["ACCELERATE_USE_CPU"]
    monkeypatch.delenv("LLMTUNE_MEETING")
    assert set_environment(offline=False) == ["LOCAL_RANK"]

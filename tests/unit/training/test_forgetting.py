"""Language-model tasks and watched forgetting: plain text in, a plain model out, its loss told before and after."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from llmtune.build import make_trainer
from llmtune.finish import finish
from llmtune.run.console import Console
from llmtune.run.rundir import RunDir
from llmtune.run.signals import StopRequest
from tests.tiny import prepared_of, write_rows

LM = ("data.limit=60", "train.max_steps=4", "train.verify_model=here", "hardware.device=cpu", "hardware.threads=1",
      "train.eval_every=2", "model.tokenizer.vocab_size=400")  # fmt: skip


def trained(folder: Path, *words: str) -> dict:
    prepared = prepared_of(*words)
    folder.mkdir(parents=True)
    run, console, stop = RunDir(folder), Console(quiet=True), StopRequest()
    trainer = make_trainer(prepared, run, console, stop)
    trainer.watchers = []
    trainer.fit()
    return finish(trainer, prepared, run, console)


@pytest.mark.parametrize(("task", "auto"), [("masked_lm", AutoModelForMaskedLM), ("causal_lm", AutoModelForCausalLM)])
def test_a_language_model_is_trained_and_then_watched(task: str, auto: type, tmp_path: Path) -> None:
    first = trained(tmp_path / "lm", f"task={task}", *LM)
    assert first["metric"] == "loss"
    assert first["mode"] == "min"
    assert ("bits_per_byte" in first["test"]) == (task == "causal_lm")
    line = json.loads((tmp_path / "lm" / "predictions.jsonl").read_text().splitlines()[0])
    assert line["words"] > 0
    auto.from_pretrained(tmp_path / "lm" / "model")  # type: ignore[attr-defined]
    rows = write_rows(tmp_path, rows=24)
    text = "builtin:tales/test.txt"
    second = trained(
        tmp_path / "task", "task=sentiment", "data=files", *rows, "model=pretrained", "hardware.device=cpu",
        f"model.path={tmp_path / 'lm' / 'model'}", "train.max_steps=4", "train.batch_rows=6", "train.eval_every=2",
        "hardware.threads=1", f"train.watch_forgetting={text}", "train.watch_forgetting_rows=20",
        "train.verify_model=off", f"objective=[supervised,{task}]",
    )  # fmt: skip
    found = second["forgetting"]
    records = [json.loads(each) for each in (tmp_path / "task" / "metrics.jsonl").read_text().splitlines()]
    losses = {each["step"]: each["loss"] for each in records if each["split"] == "forgetting"}
    assert sorted(losses) == [0, 2, 4]
    assert found["before"] == losses[0]
    assert found["worst"] == max([*losses.values(), found["after"]])
    assert found["file"] == text
    assert found["words"] > 20

"""Language models of blocks: scores that transformers gives too, the same once a run is over; what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from llmtune import cli
from llmtune.core.errors import UserError
from llmtune.training.evaluation import evaluate
from tests.tiny import prepared_of, trainer_of

SMALL = (
    "hardware.device=cpu", "hardware.threads=1", "data.limit=40", "data.max_tokens=48", "train.max_steps=3",
    "train.batch_rows=8", "model.tokenizer.vocab_size=700", "optimizer.lr=0.003",
)  # fmt: skip


def test_the_loss_of_blocks_is_that_of_the_text(tmp_path: Path) -> None:
    prepared = prepared_of("task=causal_lm", *SMALL)
    trainer = trainer_of(prepared, tmp_path)
    done = evaluate(trainer.composite.model, trainer.validation, trainer.machine, trainer.task)
    table, model = trainer.validation.table, trainer.composite.model.eval()
    total, words = 0.0, 0
    with torch.inference_mode():
        for row in range(len(table)):
            ids = torch.from_numpy(table.ids(row))[None]
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
            words += ids.shape[1] - 1
    assert words == table.cut.num_tokens - 1
    assert done.scores["words"] == words
    assert done.scores["loss"] == pytest.approx(total / words, rel=1e-5)
    text = (Path(__file__).parents[3] / "llmtune" / "samples" / "tales" / "validation.txt").read_text()
    size = sum(len(line.strip().encode()) for line in text.splitlines()[:40])
    assert done.scores["bits_per_byte"] == pytest.approx(total / math.log(2) / size, rel=0.01)


@pytest.mark.parametrize("task", ["causal_lm", "masked_lm", "denoising"])
def test_a_finished_run_scores_the_same_rows_alike_and_other_texts_too(task: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("task.blocks=true", "train.verify_model=here", f"run.dir={run}")
    assert cli.main(["train", f"task={task}", *SMALL, *words]) == 0
    test = json.loads((run / "result.json").read_text())["test"]
    assert cli.main(["evaluate", str(run), f"out={tmp_path / 'again.json'}", "hardware.threads=1"]) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["scores"] == pytest.approx(test, rel=1e-4)
    assert again["worst"][0]["file"].endswith("tales/test.txt")
    other = tmp_path / "other.txt"
    other.write_text("An old sailor sang of the sea.\n\nNobody heard him, but the gulls did.\n")
    words = (f"data.test={other}", f"out={tmp_path / 'other.json'}", "hardware.threads=1")
    assert cli.main(["evaluate", str(run), *words]) == 0
    assert json.loads((tmp_path / "other.json").read_text())["scores"]["loss"] > 0
    out = tmp_path / "out.jsonl"
    assert cli.main(["predict", str(run), str(other), "--lines", "-o", str(out), "hardware.threads=1"]) == 0
    told = [json.loads(line) for line in out.read_text().splitlines()]
    found = [row for row in told if row["loss"] is not None]
    assert len(found) == 2
    for row in found:
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]), rel=1e-3)


def test_the_same_spans_are_taken_out_in_each_evaluation_and_others_in_training(tmp_path: Path) -> None:
    trainer = trainer_of(prepared_of("task=denoising", *SMALL, "model.dropout=0"), tmp_path)
    model, validation = trainer.composite.model, trainer.validation
    first = evaluate(model, validation, trainer.machine, trainer.task)
    validation.max_tokens = 100
    again = evaluate(model, validation, trainer.machine, trainer.task)
    assert again.scores == pytest.approx(first.scores, rel=1e-5)
    (batch,) = trainer.feed.at(0)
    view, targets_BT = batch.views["denoising"], batch.targets["denoising"]
    assert view["decoder_input_ids"].shape == targets_BT.shape
    for row in range(len(targets_BT)):  # what was taken out and what is left are the block
        taken = targets_BT[row][targets_BT[row] >= 0].tolist()
        special = set(prepared_specials(trainer))
        left = [one for one in view["input_ids"][row].tolist() if one not in special]
        clean = [one for one in batch.views["clean"]["input_ids"][row].tolist() if one not in special]
        assert sorted(left + [one for one in taken if one not in special]) == sorted(clean)
        share = len([one for one in taken if one not in special]) / max(1, len(clean))
        assert 0.1 < share < 0.25
    assert not np.array_equal(trainer.feed.at(1)[0].views["denoising"]["input_ids"], view["input_ids"])


def prepared_specials(trainer: object) -> list[int]:
    spans = trainer.composite.objectives["denoising"].spans  # type: ignore[attr-defined]
    return [*spans.sentinels, *spans.special.tolist()]


@pytest.mark.parametrize(("words", "says"), [
    (["task=masked_lm", "task.blocks=true", "objective=[masked_lm,next_sentence]"], "type task.blocks=false"),
    (["task=causal_lm", "augmentation=[crop]"], "type task.blocks=false"),
    (["task=masked_lm", "task.documents=file"], "blocks=true"),
    (["task=denoising", "model=tiny_gpt2", "objective=[causal_lm]"], "task=causal_lm a decoder"),
    (["task=causal_lm", "model=tiny_t5", "objective=[denoising]"], "task=denoising an encoder-decoder"),
    (["task=causal_lm", "objective=[supervised]"], "type objective=[causal_lm]"),
    (["task=denoising", "task.metric=bits_per_byte"], "perplexity"),
    (["task=causal_lm", "data.train=builtin:tales/none.txt"], "does not ship"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_before_weights_load(words: list[str], says: str) -> None:
    with pytest.raises(UserError) as error:
        prepared_of("hardware.device=cpu", "data.limit=30", *words)
    assert says in str(error.value)


def test_frozen_layers_and_adapters_serve_and_the_prefix_cache_stays_out(tmp_path: Path) -> None:
    prepared = prepared_of("task=causal_lm", *SMALL, "freeze_policy=bottom_layers", "freeze_policy.layers=1")
    assert "begin elsewhere" in prepared.prefix.line
    lora = prepared_of("task=causal_lm", *SMALL, "adapter=lora")
    trainer = trainer_of(lora, tmp_path)
    trainer.fit()
    assert math.isfinite(trainer.evaluation.scores["loss"])

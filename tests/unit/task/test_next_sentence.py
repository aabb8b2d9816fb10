"""BERT's two tasks at once: both heads are the model's, pairs are the same in each evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertForPreTraining

from llmtune import cli
from llmtune.core.errors import UserError
from llmtune.task.next_sentence import PairedTexts
from llmtune.training.evaluation import evaluate
from tests.tiny import prepared_of, trainer_of

SMALL = (
    "task=next_sentence", "hardware.device=cpu", "hardware.threads=1", "data.limit=60", "train.max_steps=3",
    "train.batch_rows=8", "model.tokenizer.vocab_size=700", "optimizer.lr=0.003", "model.dropout=0",
)  # fmt: skip


def test_both_heads_are_trained_and_pairs_hang_on_the_row_alone(tmp_path: Path) -> None:
    trainer = trainer_of(prepared_of(*SMALL), tmp_path)
    model, validation = trainer.composite.model, trainer.validation
    assert isinstance(model, BertForPreTraining)
    assert not list(trainer.composite.own.parameters())  # objectives bring no head of their own
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = evaluate(model, validation, trainer.machine, trainer.task)
    validation.max_tokens = 300
    again = evaluate(model, validation, trainer.machine, trainer.task)
    assert again.scores == pytest.approx(first.scores, rel=1e-4)
    assert first.scores["pairs"] == len(validation.table)
    batch = validation.table.batch(torch.arange(40).numpy(), None)
    view, classes = trainer.task._pairs(batch)
    assert 10 < int(classes.sum()) < 30
    assert int(view["token_type_ids"].max()) == 1
    trainer.fit()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"cls.seq_relationship.weight", "cls.predictions.transform.dense.weight"} <= moved


class Everything:
    """Cuts rows of two numbers between them."""

    def cut(self, ids: Any) -> Any:
        return ids[:1], ids[1:]


@pytest.mark.parametrize("count", [1, 2, 3, 36, 37, 38, 74, 1000])
def test_the_other_half_is_never_the_rows_own(count: int) -> None:
    rows = [[-1, row] for row in range(count)]
    others = PairedTexts(None, Everything())._paired({"input_ids": rows})["other"]
    assert all(other != row[1:] for row, other in zip(rows, others))
    assert (others == [[]]) is (count == 1)


def test_a_finished_run_is_scored_again_and_opens_as_a_masked_language_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli.main(["train", *SMALL, "train.verify_model=here", f"run.dir={run}"]) == 0
    test = json.loads((run / "result.json").read_text())["test"]
    assert cli.main(["evaluate", str(run), f"out={tmp_path / 'again.json'}", "hardware.threads=1"]) == 0
    assert json.loads((tmp_path / "again.json").read_text())["scores"] == pytest.approx(test, rel=1e-4)
    line = json.loads((run / "predictions.jsonl").read_text().splitlines()[0])
    assert line["next_right"] in (True, False)
    found = AutoModelForMaskedLM.from_pretrained(run / "model", output_loading_info=True)[1]
    assert not found["missing_keys"]


def test_the_heads_alone_are_trained_from_kept_states(tmp_path: Path) -> None:
    prepared = prepared_of(*SMALL, "freeze_policy=head_only", "train.max_steps=12", "train.prefix_cache=on")
    trainer = trainer_of(prepared, tmp_path)
    before = trainer.composite.model.bert.encoder.layer[0].output.dense.weight.clone()
    trainer.fit()
    assert torch.equal(trainer.composite.model.bert.encoder.layer[0].output.dense.weight, before)
    assert trainer.evaluation.scores["pairs"] > 10


@pytest.mark.parametrize(("words", "says"), [
    (["model=tiny_gpt2", "objective=[causal_lm]"], "BERT's kind"),
    (["objective=[supervised]"], "supervised needs labels"),
    (["task.metric=accuracy"], "next_accuracy"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(UserError) as error:
        prepared_of(*SMALL, *words)
    assert says in str(error.value)

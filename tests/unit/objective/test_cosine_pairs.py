"""cosine_pairs against plain torch, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from llmtune.core.errors import Stopped, UserError
from llmtune.run.checkpoint import CheckpointStore
from llmtune.run.signals import StopRequest
from tests.tiny import TINY, prepared_of, trainer_of, write_rows

SHORT = ("objective=[cosine_pairs]", "task.pooling=mean", "train.batch_rows=12", "train.max_steps=2", "model.dropout=0")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def test_loss_and_gradient_are_those_of_plain_torch(rows: list[str], tmp_path: Path) -> None:
    trainer = trainer_of(prepared_of(*TINY, *rows, *SHORT), tmp_path)
    (batch,) = trainer.feed.at(0)
    model, label = trainer.composite.model, batch.targets["label"]
    loss = trainer.composite(batch)["cosine_pairs"]
    (loss.total / loss.count).backward()
    table = model.get_input_embeddings().weight
    given = table.grad.clone()
    table.grad = None
    states_BTD = model.backbone(**batch.views["clean"]).last_hidden_state
    real_BT1 = batch.views["clean"]["attention_mask"][..., None]
    vectors_BD = F.normalize((states_BTD * real_BT1).sum(1) / real_BT1.sum(1), dim=-1)
    errors: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for one in range(12):
        for other in range(one):
            alike = bool(label[one] == label[other])
            errors[alike].append((vectors_BD[one] @ vectors_BD[other] - float(alike)) ** 2)
    wanted = sum(torch.stack(found).mean() for found in errors.values()) / 2
    wanted.backward()
    assert float(loss.count) == 66
    torch.testing.assert_close(loss.total / loss.count, wanted)
    torch.testing.assert_close(given, table.grad, rtol=1e-4, atol=1e-7)


class StopAt(StopRequest):
    """Asks for a stop at the n-th time that somebody looks."""

    def __init__(self, looks: int):
        self.left = looks

    @property
    def name(self) -> str | None:  # type: ignore[override]
        self.left -= 1
        return "SIGTERM" if self.left < 0 else None


@pytest.mark.parametrize("looks", [6, 14])
def test_two_stages_resumed_are_unstopped(looks: int, rows: list[str], tmp_path: Path) -> None:
    prepared = prepared_of(
        *TINY, *rows, "objective=[supervised,cosine_pairs]", "task.pooling=mean", "freeze_policy=tune_then_probe",
        "freeze_policy.tune=4", "objective.cosine_pairs.weight='0:1, 0.49:1, 0.5:0'",
        "objective.supervised.weight='0:0, 0.49:0, 0.5:1'", "train.batch_rows=12", "train.max_steps=8",
    )  # fmt: skip
    whole = trainer_of(prepared, tmp_path / "whole")
    whole.fit()
    with pytest.raises(Stopped):
        trainer_of(prepared, tmp_path / "part", StopAt(looks)).fit()
    again = trainer_of(prepared, tmp_path / "part")
    checkpoint = CheckpointStore(tmp_path / "part" / "checkpoints", keep=2).newest_good(print)
    assert checkpoint is not None
    again.resume(checkpoint)
    assert 0 < again.state.step < 8
    again.fit()
    for name, weight in whole.composite.state_dict().items():
        assert torch.equal(weight, again.composite.state_dict()[name]), name


def test_rows_with_several_labels_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    lines = (json.dumps({"text": f"a warm film {number}", "label": ["a", "b"]}) for number in range(30))
    file.write_text("\n".join(lines))
    with pytest.raises(UserError, match="no class to be alike by"):
        prepared_of(*TINY, f"data.train={file}", *SHORT)

"""cosine_pairs against plain torch, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from llmtune.core.errors import UserError
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


def test_rows_with_several_labels_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    lines = (json.dumps({"text": f"a warm film {number}", "label": ["a", "b"]}) for number in range(30))
    file.write_text("\n".join(lines))
    with pytest.raises(UserError, match="no class to be alike by"):
        prepared_of(*TINY, f"data.train={file}", *SHORT)

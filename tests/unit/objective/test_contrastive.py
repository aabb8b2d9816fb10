"""contrastive and supervised_contrastive: the papers' losses, what counts, the sights of a row, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from llmtune.core.errors import UserError
from llmtune.core.types import Batch
from llmtune.model.pooling import pooled, pooling_of_head
from llmtune.model.trunk import Trunk
from llmtune.objective.row_views import TEXT, CroppedViews, DropoutViews
from llmtune.training.comparing import compare_over_splits
from tests.tiny import TINY, prepared_of, trainer_of, write_rows
from tests.unit.objective.small import (
    assert_same_gradients,
    batch_of,
    gradients_of,
    network_of,
    parts_of,
    settings_of,
    task_of,
)

LABEL = torch.tensor([0, 2, 1, 0, 1, 0])


def vectors(network: Any, batch: Batch, view: str = "clean") -> torch.Tensor:
    inputs = batch.views[view]
    return F.normalize(network.bert(**inputs).last_hidden_state[:, 0], dim=-1)


@pytest.mark.parametrize("runs", [1, 2])
def test_supervised_contrastive_is_the_papers_loss(runs: int) -> None:
    network, batch = network_of("bert"), batch_of()
    batch.targets["label"] = LABEL
    part = settings_of("supervised_contrastive", runs=runs, temperature=0.3).build(parts_of(network, task_of()))
    part.prepare(batch)
    loss = part.loss(Trunk(network), batch)
    found = gradients_of(network, loss.total)
    z, y = torch.cat([vectors(network, batch)] * runs), torch.cat([LABEL] * runs)
    total = torch.zeros(())
    anchors = 0
    for i in range(len(z)):
        likes = [p for p in range(len(z)) if p != i and y[p] == y[i]]
        if likes:
            below = torch.stack([(z[i] @ z[a] / 0.3).exp() for a in range(len(z)) if a != i]).sum()
            total = total - sum((z[i] @ z[p] / 0.3) - below.log() for p in likes) / len(likes)
            anchors += 1
    assert loss.count == part.count(batch) == anchors == (5 if runs == 1 else 12)  # class 2 has one row
    torch.testing.assert_close(loss.total, total)
    assert_same_gradients(found, gradients_of(network, total))


def test_rows_that_are_all_alone_give_no_loss_and_no_gradient() -> None:
    network, batch = network_of("bert"), batch_of(rows=slice(3))
    part = settings_of("supervised_contrastive").build(parts_of(network, task_of()))
    loss = part.loss(Trunk(network), batch)
    assert loss.total == loss.count == part.count(batch) == 0
    assert all(grad.abs().max() == 0 for grad in gradients_of(network, loss.total).values())


def test_rows_with_a_label_in_common_are_alike() -> None:
    part = settings_of("supervised_contrastive").build(parts_of(network_of("bert"), task_of("multi_label")))
    batch = batch_of("multi_label")
    batch.targets["label"] = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0]])
    assert part.count(batch) == 3


@pytest.mark.parametrize("symmetric", [False, True])
def test_contrastive_by_dropout_is_the_papers_loss(symmetric: bool) -> None:
    network, batch = network_of("bert", dropout=0.2), batch_of()
    part = settings_of("contrastive", symmetric=symmetric).build(parts_of(network, task_of()))
    part.prepare(batch)
    trunk = Trunk(network)
    trunk.draw = 5
    loss = part.loss(trunk, batch)
    found = gradients_of(network, loss.total)
    trunk.reset()
    one, two = (F.normalize(trunk.output(view, batch).last_hidden_state[:, 0], dim=-1) for view in ("clean", "second"))
    assert not torch.equal(one, two)
    scores, own = one @ two.T / 0.05, torch.arange(6)
    total = F.cross_entropy(scores, own, reduction="sum")
    if symmetric:
        total = (total + F.cross_entropy(scores.T, own, reduction="sum")) / 2
    assert loss.count == part.count(batch) == 6
    torch.testing.assert_close(loss.total, total)
    assert_same_gradients(found, gradients_of(network, total), atol=1e-4)  # of up to 30


def test_the_same_row_twice_is_no_other_row() -> None:
    network, batch = network_of("bert", dropout=0.2), batch_of()
    batch.views["clean"] = {name: torch.cat([ids[:5], ids[:1]]) for name, ids in batch.views["clean"].items()}
    part = settings_of("contrastive", symmetric=False).build(parts_of(network, task_of()))
    part.prepare(batch)
    trunk = Trunk(network)
    loss = part.loss(trunk, batch)
    one, two = (F.normalize(trunk.output(view, batch).last_hidden_state[:, 0], dim=-1) for view in ("clean", "second"))
    scores = one @ two.T / 0.05
    scores[0, 5] = scores[5, 0] = -torch.inf
    torch.testing.assert_close(loss.total, F.cross_entropy(scores, torch.arange(6), reduction="sum"))


class FewWords:
    pad_token_id, cls_token_id, sep_token_id, bos_token_id, eos_token_id = 0, 2, 3, None, None


def test_spans_are_cuts_of_a_row_between_its_special_tokens() -> None:
    rows = [[2, 10, 11, 12, 13, 14, 15, 3], [2, 20, 21, 3], [2, 3]]
    ids = torch.tensor([row + [0] * (8 - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (8 - len(row)) for row in rows])
    cut, alone = CroppedViews(FewWords, 0.5), CroppedViews(FewWords, 0.5)
    batch = Batch([0, 1, 2], {"clean": {"input_ids": ids, "attention_mask": mask}}, {}, row_seeds=[7, 8, 9])
    cut.add(batch)
    lengths = set()
    for view in cut.views:
        found = batch.views[view]
        for row, kept, real in zip(rows, found["input_ids"].tolist(), found["attention_mask"].sum(1).tolist()):
            assert kept[0] == 2
            assert kept[real - 1] == 3
            inside = kept[1 : real - 1]
            assert len(inside) >= (len(row) - 2) / 2
            assert ",".join(map(str, inside)) in ",".join(map(str, row))
            lengths.add(len(inside))
    assert len(lengths) > 2
    second = Batch([1], {"clean": {"input_ids": ids[1:2, :4]}}, {}, row_seeds=[8])  # other rows beside it, or none
    alone.add(second)
    for view in cut.views:
        real = int(second.views[view]["attention_mask"].sum())
        assert second.views[view]["input_ids"][0, :real].equal(batch.views[view]["input_ids"][1, :real])


@pytest.fixture
def pairs(tmp_path: Path) -> list[str]:
    """Six premises with a hypothesis that follows, one that doesn't, and one that may."""
    words = [
        {"text": f"number {i} sings", "text_pair": f"{label} of {i}", "label": label}
        for i in range(6) for label in ("entails", "denies", "open")
    ]  # fmt: skip
    words[-2]["text"] = "nobody sings"  # the last premise has nothing that is unlike it
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in words))
    return [f"data.train={tmp_path / 'rows.jsonl'}", "data.validation_share=0", "data.test_share=0",
            "train.batch_rows=18", "objective=[contrastive]", "objective.contrastive.views=pairs"]  # fmt: skip


def test_pairs_with_hard_negatives(pairs: list[str], tmp_path: Path) -> None:
    chosen = ["objective.contrastive.positives=[entails]", "objective.contrastive.negatives=[denies]"]
    prepared = prepared_of(*TINY, *pairs, *chosen)
    results = []
    for micro in (18, 5):
        trainer = trainer_of(prepared_of(*TINY, *pairs, *chosen, f"train.micro_rows={micro}", "model.dropout=0",
                                         "objective.contrastive.pooling=mean"), tmp_path / str(micro))  # fmt: skip
        results.append(trainer.stepper.run(0, trainer.feed.at(0), 1e-3, lambda: False))
    assert results[0].sums == pytest.approx(results[1].sums, rel=1e-5)
    assert results[0].grad_norm == pytest.approx(results[1].grad_norm, rel=1e-4)
    assert results[0].sums["contrastive/count"] == 6
    batch = trainer_of(prepared, tmp_path / "run").feed.at(0)[0]
    texts = {view: [prepared.tokenizer.decode(ids, skip_special_tokens=True) for ids in inputs["input_ids"]]
             for view, inputs in batch.views.items() if view != "clean"}  # fmt: skip
    assert len(texts["contrastive/text"]) == len(texts["contrastive/text_pair"]) == 6
    assert len(texts["contrastive/negative"]) == 5
    both = zip(texts["contrastive/text"], texts["contrastive/text_pair"])
    by_number = {text.split()[1]: other for text, other in both}
    assert by_number == {str(i): f"entails of {i}" for i in range(6)}
    kept = [text.split()[1] for text in texts["contrastive/text"] if "5" not in text]
    assert texts["contrastive/negative"] == [f"denies of {number}" for number in kept]


REFUSED = {
    "objective.contrastive.views=pairs": r"one text each; .*data\.columns\.text_pair",
    "model.dropout=0": r"the backbone has none.*model\.dropout=0\.1",
}


@pytest.mark.parametrize("word", REFUSED)
def test_no_two_sights_of_a_row_is_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=REFUSED[word]):
        prepared_of(*TINY, *write_rows(tmp_path), "objective=[contrastive]", word)


def test_unknown_classes_are_refused(pairs: list[str]) -> None:
    with pytest.raises(UserError, match=r"negatives: no class 'deny'.*did you mean 'denies'"):
        prepared_of(*TINY, *pairs, "objective.contrastive.negatives=[deny]")


def test_numbers_have_no_classes(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(
        json.dumps({"text": f"row {i}", "label": i / 7}) for i in range(40)))  # fmt: skip
    with pytest.raises(UserError, match="have no classes to be alike by"):
        prepared_of(*TINY, f"data.train={tmp_path / 'rows.jsonl'}", "objective=[supervised,supervised_contrastive]")


def test_rows_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(f"a text of number {i} with some words" for i in range(30)))
    words = ["objective=[supervised,contrastive]", f"objective.contrastive.rows={tmp_path / 'texts.txt'}",
             "objective.contrastive.views=spans", "train.max_steps=2", "train.batch_rows=12"]  # fmt: skip
    trainer = trainer_of(prepared_of(*TINY, *write_rows(tmp_path), *words), tmp_path / "run")
    assert {batch.feed for batch in trainer.feed.at(0)} == {"task", "contrastive"}
    result = trainer.stepper.run(0, trainer.feed.at(0), 1e-3, lambda: False)
    assert result.sums["contrastive/count"] == 12


def test_pooling_reads_what_the_head_reads() -> None:
    hidden = torch.randn(2, 4, 3)
    view = {"attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])}
    torch.testing.assert_close(pooled(hidden, view, "first"), hidden[:, 0])
    torch.testing.assert_close(pooled(hidden, view, "last"), torch.stack([hidden[0, 3], hidden[1, 1]]))
    torch.testing.assert_close(pooled(hidden, view, "mean"), torch.stack([hidden[0].mean(0), hidden[1, :2].mean(0)]))
    torch.testing.assert_close(pooled(hidden, {}, "last"), hidden[:, 3])
    network, batch = network_of("gpt2").eval(), batch_of()
    assert pooling_of_head(network) == "last"
    assert pooling_of_head(network_of("bert")) == "first"
    output = network.transformer(**batch.views["clean"]).last_hidden_state
    expected = network(**batch.views["clean"]).logits
    torch.testing.assert_close(network.score(pooled(output, batch.views["clean"], "last")), expected)


def test_equal_rows_are_known_whatever_they_are_padded_to() -> None:
    row, longer = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 7, 0], [5, 6, 7, 8]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    batches = [SimpleNamespace(views={"clean": {"input_ids": row}}, targets={}),
               SimpleNamespace(views={"clean": {"input_ids": longer, "attention_mask": mask}}, targets={})]  # fmt: skip
    for batch in batches:
        DropoutViews().add(batch)
    (alone, *_), (padded, other, *_) = (batch.targets[TEXT].tolist() for batch in batches)
    assert alone == padded != other


def test_processes_compare_nothing_in_a_step_of_other_rows() -> None:
    """sampling=round_robin gives steps without the rows that are compared."""
    composite: Any = SimpleNamespace(objectives={"contrastive": SimpleNamespace(pooled=True, feed="task")})
    machine: Any = SimpleNamespace(world=2)
    other: Any = SimpleNamespace(feed="auxiliary/more", weight=1.0)
    assert compare_over_splits(composite, machine, [other], ["contrastive"], [1]) == {}

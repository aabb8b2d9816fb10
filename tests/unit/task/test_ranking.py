"""Rankings: what labels mean, candidates that are drawn, losses against plain torch, resume, what is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from llmtune.core.errors import Stopped, UserError
from llmtune.data.rows import RawSplits
from llmtune.run.checkpoint import CheckpointStore
from llmtune.scoring.predictions import Chunk, Outcomes, Predictions
from llmtune.scoring.ranking import score
from llmtune.task.ranking import Ranking, RankingTask
from llmtune.task.ranking_results import decoded, scores
from tests.tiny import prepared_of, trainer_of

SMALL = (
    "data=files", "model.architecture.hidden_size=16", "model.architecture.intermediate_size=32",
    "model.tokenizer.vocab_size=200", "train.verify_model=off", "hardware.device=cpu", "hardware.threads=1",
    "train.log_every=1", "optimizer.lr=0.003",
)  # fmt: skip
ITEMS = [f"{what} of {stuff}" for what in ("a box", "a map", "two bags", "a book") for stuff in ("salt", "maps", "tea")]


def chosen(num: int = 36) -> list[dict[str, Any]]:
    """Implicit feedback: each user likes a few of the items."""
    return [{"user": f"u{n % 9}", "profile": f"user {n % 9} likes tea and maps", "item": ITEMS[(n * 5 + n // 9) % 12]}
            for n in range(num)]  # fmt: skip


def graded(num: int = 36) -> list[dict[str, Any]]:
    return [{"query": f"question {n // 4}", "passage": ITEMS[(n * 5) % 12], "label": n % 3} for n in range(num)]


def listed(num: int = 24) -> list[dict[str, Any]]:
    return [{"text": f"question {n}", "choices": ITEMS[n % 5 : n % 5 + 3 + n % 2], "label": n % 3} for n in range(num)]


def data(folder: Path, rows: list[dict[str, Any]], **changed: Any) -> list[str]:
    words = []
    for split, some in (("train", rows), ("validation", rows[: len(rows) // 2])):
        some = [{**some[0], **changed}, *some[1:]]
        (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in some))
        words.append(f"data.{split}={folder / f'{split}.jsonl'}")
    return [*words, "data.test_share=0"]


def task_of(**changed: Any) -> RankingTask:
    usual = {"name": "x", "kind": "ranking", "metric": "auto", "loss": "binary", "negatives": "auto",
             "eval_negatives": "auto", "negatives_seed": 0, "pooling": "auto"}  # fmt: skip
    return RankingTask(Ranking(**{**usual, **changed}))


def test_nothing_that_is_drawn_is_known_as_chosen(tmp_path: Path) -> None:
    words = ["task=recommend", *SMALL, *data(tmp_path, chosen()), "task.eval_negatives=5"]
    prepared = prepared_of(*words)
    task, known = prepared.task, {(row["user"], row["item"]) for row in chosen()}
    for split, number in (("train", 4), ("validation", 5)):
        for row in prepared.splits[split]:
            drawn = [task.candidates[place] for place in json.loads(row["drawn"])]
            assert len(set(drawn)) == len(drawn) == number
            assert not any((row["group"], item) in known for item in drawn)
            assert row["target"] == [1] + [0] * number
            whole = prepared.tokenizer([row["text"]] * (number + 1), [row["text_pair"], *drawn])["input_ids"]
            assert row["cuts"] == [len(ids) for ids in whole]
            assert row["input_ids"] == [token for ids in whole for token in ids]
    again = prepared_of(*words).splits["train"]["drawn"][:]
    assert again == prepared.splits["train"]["drawn"][:]
    assert again != prepared_of(*words, "task.negatives_seed=1").splits["train"]["drawn"][:]


def test_what_was_chosen_in_training_is_not_drawn_later(tmp_path: Path) -> None:
    words = ["task=recommend", *SMALL, *data(tmp_path, chosen()), "task.eval_negatives=3"]
    prepared = prepared_of(*words)
    kept = json.loads(json.dumps(prepared.task.to_json()))
    assert len(base64.b64decode(kept["known"])) == 8 * len({(row["user"], row["item"]) for row in chosen()})
    task = task_of(eval_negatives=3)
    task.restore(kept)
    assert task.to_json() == kept

    raw = RawSplits({"test": prepared.splits["validation"].remove_columns(["drawn"])}, {}, "")
    task.read_labels(raw, None, None)
    pool = prepared.task.candidates[-len(task.candidates) :]
    assert pool == task.candidates  # those of validation came last
    shift = len(prepared.task.candidates) - len(pool)
    found = [[place + shift for place in json.loads(drawn)] for drawn in raw.splits["test"]["drawn"]]
    assert found == [json.loads(drawn) for drawn in prepared.splits["validation"]["drawn"]]


def test_labels_of_pairs_and_of_lists(tmp_path: Path) -> None:
    prepared = prepared_of("task=rerank", *SMALL, *data(tmp_path, graded()))
    assert prepared.task.best_grade == 2
    assert [row["target"] for row in prepared.splits["train"]][:4] == [[0], [1], [2], [0]]
    assert "cuts" not in prepared.splits["train"].column_names
    assert prepared.task.collate_targets([[0], [1], [2]])["label"].tolist() == [0.0, 0.5, 1.0]
    rows = listed()
    rows[0]["label"], rows[1]["label"] = [0, 2, 1], rows[1]["choices"][2]
    prepared = prepared_of("task=rerank", *SMALL, *data(tmp_path, rows), "task.loss=softmax")
    targets = [row["target"] for row in prepared.splits["train"]]
    assert targets[:3] == [[0, 2, 1], [0, 0, 1, 0], [0, 0, 1]]
    assert [len(row["cuts"]) for row in prepared.splits["train"]] == [len(target) for target in targets]


@pytest.mark.parametrize("loss", ["binary", "softmax"])
def test_losses_are_those_of_plain_torch(loss: str) -> None:
    task = task_of(loss=loss)
    task.best_grade = 2
    targets = task.collate_targets([[0, 2, 1], [0, 0], [1, 0, 0, 0]])
    draws = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 9, 1, generator=draws)
    share = torch.tensor([1.0, 0.5, 2.0])
    parts = [slice(0, 3), slice(3, 5), slice(5, 9)]
    wanted = [torch.tensor([0, 1, 0.5]), torch.zeros(2), torch.tensor([0.5, 0, 0, 0])]
    if loss == "binary":
        each = [functional.binary_cross_entropy_with_logits(first[part, 0], want, reduction="sum")
                for part, want in zip(parts, wanted)]  # fmt: skip
        counts = torch.tensor([3.0, 2, 4])
        apart = functional.logsigmoid
        p, q = first[:, 0].sigmoid(), second[:, 0].sigmoid()
        kl = (p - q) * (apart(first[:, 0]) - apart(-first[:, 0]) - apart(second[:, 0]) + apart(-second[:, 0]))
        divergence = kl.sum() / 2
    else:
        each = [functional.cross_entropy(first[part, 0], want / want.sum()) if want.any() else torch.zeros(())
                for part, want in zip(parts, wanted)]  # fmt: skip
        counts = torch.tensor([1.0, 0, 1])  # nothing to choose in the second row
        kl = []
        for part in (parts[0], parts[2]):
            p, q = (logits[part, 0].log_softmax(0) for logits in (first, second))
            kl.append((p.exp() * (p - q)).sum() + (q.exp() * (q - p)).sum())
        divergence = sum(kl) / 2
    plain = task.loss(first, targets)
    torch.testing.assert_close(plain.total, torch.stack(each).sum())
    assert plain.count == task.count(targets) == counts.sum()
    weighted = task.loss(first, targets, share)
    torch.testing.assert_close(weighted.total, (torch.stack(each) * share).sum())
    assert weighted.count == task.count(targets, share) == (counts * share).sum()
    torch.testing.assert_close(task.divergence(first, second, targets).total, divergence)


@pytest.mark.parametrize("words", [["task=recommend"], ["task=recommend", "task.loss=softmax"]])
def test_a_step_is_the_same_however_it_is_split(words: list[str], tmp_path: Path) -> None:
    rows, results = data(tmp_path, chosen()), []
    for micro_rows in (12, 4):
        prepared = prepared_of(*words, *SMALL, *rows, "model.dropout=0", "train.batch_rows=12",
                               f"train.micro_rows={micro_rows}", "train.max_steps=2")  # fmt: skip
        trainer = trainer_of(prepared, tmp_path / str(micro_rows))
        results.append(trainer.stepper.run(0, trainer.feed.at(0), 1e-3, lambda: False))
    whole, split = results
    assert whole.grad_norm > 0
    assert split.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
    assert split.sums == pytest.approx(whole.sums, rel=1e-5)


def test_stopped_and_resumed_equals_unstopped(tmp_path: Path) -> None:
    prepared = prepared_of("task=recommend", *SMALL, *data(tmp_path, chosen()), "train.batch_rows=6",
                           "train.max_steps=6", "train.save_every=2")  # fmt: skip
    whole, first = (trainer_of(prepared, tmp_path / name) for name in ("whole", "run"))
    whole.fit()
    first.should_stop = lambda: "SIGTERM" if first.state.step >= 3 else None
    with pytest.raises(Stopped):
        first.fit()
    second = trainer_of(prepared, tmp_path / "run")
    checkpoint = CheckpointStore(tmp_path / "run" / "checkpoints", keep=1).newest_good(print)
    assert checkpoint is not None
    second.resume(checkpoint)
    second.fit()
    assert whole.state.step == second.state.step == 6
    for (name, one), (_, two) in zip(whole.composite.named_parameters(), second.composite.named_parameters()):
        assert torch.equal(one, two), name


def test_rows_of_several_candidates_are_groups_and_others_go_by_their_name() -> None:
    import datasets

    texts = ["a", "b", "a", "c"]
    rows = datasets.Dataset.from_dict({
        "text": texts, "text_pair": ["x"] * 4, "file": ["f"] * 4, "line": [1, 2, 3, 4],
        "target": [[1], [1, 0, 0], [0], [0, 1]],
    })  # fmt: skip
    outcomes = Outcomes(4)
    given = [np.array([0.2]), np.array([[0.5], [0.7], [0.1]]), np.array([0.4]), np.array([[0.1], [0.3]])]
    outcomes.put(range(4), given)
    found = scores(Predictions(rows, outcomes))
    expected = score(np.array([0, 1, 1, 1, 0, 2, 2]), np.array([1, 1, 0, 0, 0, 0, 1]),
                     np.array([0.2, 0.5, 0.7, 0.1, 0.4, 0.1, 0.3]))  # fmt: skip
    assert found == pytest.approx(expected)
    assert found["mrr"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


def test_what_predict_tells() -> None:
    pair = Chunk({"text": ["a"], "text_pair": ["x"]}, None, [np.array([0.0])])
    assert decoded(pair, together=False) == [{"score": 0.0, "probability": 0.5, "ranking": None}]
    three = Chunk({"text": ["a"], "choices": ['["x", "y", "z"]']}, None, [np.array([[0.0], [2.0], [1.0]])])
    (told,) = decoded(three, together=True)
    assert told["ranking"] == [1, 2, 0]
    assert sum(told["probability"]) == pytest.approx(1, abs=1e-5)
    assert told["score"] == [0.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("rows", "changed", "words", "message"),
    [
        (graded(), {"label": "good"}, [], r"train\.jsonl:1: label 'good' says not how relevant the candidate is"),
        (graded(), {"label": 1.5}, [], r"train\.jsonl:1: label '1.5' is no grade: a whole number from 0 to 30"),
        (listed(), {"label": 9}, [], r"train\.jsonl:1: label 9, but the candidates are numbered 0 to 2"),
        (listed(), {"label": [1, 0]}, [], r"train\.jsonl:1: 2 labels for 3 candidates"),
        (listed(), {}, ["task.negatives=3"], "the rows of train list their candidates themselves"),
        (graded(), {}, ["task.loss=softmax"], "softmax compares the candidates of a row"),
        (chosen(), {}, ["task.negatives=0"], "every row of train is relevant: nothing stands against it"),
        (chosen(), {}, ["task.metric=accuracy"], "'accuracy' is no metric of task=recommend"),
        (chosen(), {}, ["task.negatives=some"], "negatives"),
        (chosen(), {}, ["objective=[supervised,mixup]"], "mixes two texts, the rows of task=recommend"),
        (graded(), {}, ["train.class_weights=balanced"], "class_weights"),
        ([{"query": "one", "price": 3}] * 4, {}, [], "text_pair"),
    ],
)
def test_what_does_not_fit_is_told(
    rows: list[dict[str, Any]], changed: dict[str, Any], words: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        prepared_of("task=recommend", *SMALL, *data(tmp_path, rows, **changed), *words)


def test_users_who_chose_everything_leave_nothing_to_draw(tmp_path: Path) -> None:
    rows = [{"profile": f"user {n % 3}", "item": ITEMS[n // 3]} for n in range(36)]
    with pytest.raises(UserError, match="no other candidate among its 12 can be drawn"):
        prepared_of("task=recommend", *SMALL, *data(tmp_path, rows))

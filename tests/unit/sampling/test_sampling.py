"""Which set of rows a step reads: shares, order, what was seen, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmtune.core.errors import ConfigError
from llmtune.core.seeds import generator
from llmtune.sampling.dynamic import Drawing, Dynamic
from llmtune.sampling.feeds import drawn
from llmtune.sampling.proportional import Proportional
from llmtune.sampling.round_robin import RoundRobin
from llmtune.sampling.temperature import Temperature
from llmtune.sampling.together import Together
from llmtune.training.step import StepResult
from tests.tiny import BESIDE, SETS, TINY, prepared_of, together, trainer_of, write_rows

ROWS = {"task": 900, "auxiliary/a": 90, "auxiliary/b": 10}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def parts(num_steps: int = 20_000, seed: int = 1) -> Any:
    feeds = {name: SimpleNamespace(splits={"train": range(size)}) for name, size in ROWS.items() if name != "task"}
    return SimpleNamespace(splits={"train": range(ROWS["task"])}, feeds=feeds, num_steps=num_steps,
                           config=SimpleNamespace(seed=seed))  # fmt: skip


def test_shares() -> None:
    assert Together(name="together").shares(ROWS) == dict.fromkeys(ROWS, 1.0)
    assert Proportional(name="p").shares(ROWS) == {"task": 0.9, "auxiliary/a": 0.09, "auxiliary/b": 0.01}
    roots = np.sqrt([900, 90, 10])
    found = Temperature(name="t", temperature=2).shares(ROWS)
    assert list(found.values()) == pytest.approx(roots / roots.sum())
    assert list(RoundRobin(name="r").shares(ROWS).values()) == [1 / 3] * 3


ONE_A_STEP = [Proportional(name="p"), Temperature(name="t", temperature=3), RoundRobin(name="r")]


@pytest.mark.parametrize("settings", ONE_A_STEP)
def test_sets_come_by_their_shares_and_step_by_step(settings: Any) -> None:
    sampling, seen = settings.build(parts()), {name: [] for name in ROWS}
    for step in range(20_000):
        ((name, own),) = sampling.pick(step).items()
        seen[name].append(own)
    for name, share in settings.shares(ROWS).items():
        assert len(seen[name]) / 20_000 == pytest.approx(share, abs=0.01)
        assert seen[name] == list(range(len(seen[name])))
    assert sampling.pick(7) == sampling.pick(7) == settings.build(parts()).pick(7)


def test_together_reads_all_at_the_step_itself() -> None:
    assert Together(name="t").build(parts()).pick(5) == dict.fromkeys(ROWS, 5)


def test_a_longer_run_begins_as_a_shorter_one() -> None:
    shares = Proportional(name="p").shares(ROWS)
    short, long = (drawn(shares, steps, generator(4, "sampling")) for steps in (100, 1000))
    assert [short.pick(step) for step in range(100)] == [long.pick(step) for step in range(100)]


def settings(**changes: Any) -> Dynamic:
    values = {"name": "dynamic", "signal": "loss", "sharpness": 2.0, "least": 0.2, "warmup": 2, "memory": 0.5}
    return Dynamic(**{**values, **changes})


def play(drawing: Drawing, loss_of: Any, steps: range) -> list[str]:
    chosen = []
    for step in steps:
        ((name, _),) = drawing.pick(step).items()
        chosen.append(name)
        sums = {f"{other}": 0.0 for other in drawing.counts} | {f"{other}/count": 0.0 for other in drawing.counts}
        loss = loss_of(name, drawing.counts[name])
        sums |= {name: 8 * loss, f"{name}/count": 8.0, "loss": loss}
        drawing.follow(step, StepResult(sums, 1.0, 8, 20, 20))
    return chosen


def test_dynamic_reads_all_in_turn_and_then_what_fell_least() -> None:
    drawing = Drawing(settings(), ["task", "aux"], ["task", "aux"], 1)
    chosen = play(drawing, lambda name, count: 1.0 if name == "aux" else 0.5**count, range(40))
    assert chosen[:4] == ["task", "aux", "task", "aux"]
    chances = drawing.chances()
    assert chances["task"] == pytest.approx(0.1, abs=0.02)  # the least: 0.2 / 2
    assert chosen[10:].count("aux") > 20
    assert sum(chances.values()) == pytest.approx(1)


def test_dynamic_is_not_captured_by_terms_that_rise_from_zero() -> None:
    drawing = Drawing(settings(), ["task", "aux"], ["supervised", "aux"], 1)
    for step in range(60):
        ((name, count),) = drawing.pick(step).items()
        losses = {"supervised": 0.7 * 0.9**count, "l2_sp": 1e-4 * count**2} if name == "task" else {"aux": 0.7}
        sums = {**losses, **{f"{term}/count": 1.0 for term in losses}, "loss": 1.0}
        drawing.follow(step, StepResult(sums, 1.0, 8, 20, 20))
    assert drawing.counts["aux"] > 40
    assert drawing.chances()["task"] < 0.2


def test_dynamic_counts_a_risen_loss_as_not_fallen_and_a_set_without_one_as_the_others() -> None:
    drawing = Drawing(settings(warmup=1, memory=0.0, least=0.0, sharpness=1.0), ["task", "aux", "old"],
                      ["supervised", "aux"], 1)  # fmt: skip
    given = [{"supervised": 1e-6}, {"aux": 1.0}, {"consistency": 0.0}]
    for step in range(40):
        number = list(drawing.counts).index(drawing.chosen(step))
        losses = given[number] if step < 3 else [{"supervised": 0.02}, {"aux": 0.5}, {"consistency": 9.0}][number]
        sums = {**losses, **{f"{term}/count": 1.0 for term in losses}}
        drawing.follow(step, StepResult(sums, 1.0, 8, 20, 20))
    assert drawing.chances() == pytest.approx({"task": 1 / 2.25, "aux": 0.5 / 2.25, "old": 0.75 / 2.25})


def test_dynamic_looks_at_losses_that_fall_alone(rows: list[str], tmp_path: Path) -> None:
    words = [*together(*SETS[:2], "objective=smart", "objective=l2_sp", "sampling=dynamic"), "train.max_steps=8",
             "sampling.warmup=2"]  # fmt: skip
    trainer = trainer_of(prepared_of(*TINY, *rows, *words), tmp_path / "run")
    trainer.fit()
    starts = trainer.parts["sampling"].starts
    assert {name: set(terms) for name, terms in starts.items()} == {
        "task": {"supervised"}, "auxiliary/more": {"auxiliary/more"},
    }  # fmt: skip


def test_dynamic_by_validation_gain() -> None:
    drawing = Drawing(settings(signal="gain", least=0.0, sharpness=1.0), ["task", "aux"], ["task", "aux"], 1)
    assert drawing.chances() == {"task": 0.5, "aux": 0.5}
    drawing.follow_scores(3, {"task": {"loss": 1.0}, "aux": {"loss": 2.0}})
    assert drawing.chances() == {"task": 0.5, "aux": 0.5}
    drawing.follow_scores(6, {"task": {"loss": 0.9}, "aux": {"loss": 1.4}})
    assert drawing.chances() == pytest.approx({"task": 0.25, "aux": 0.75})
    drawing.follow_scores(9, {"task": {"loss": 0.95}, "aux": {"loss": 1.4}})  # nobody gains
    assert drawing.chances() == pytest.approx({"task": 0.5, "aux": 0.5})


@pytest.mark.parametrize("signal", ["loss", "gain"])
def test_dynamic_goes_on_from_its_state(signal: str) -> None:
    def losses(name: str, count: int) -> float:
        return 1 / (1 + count) if name == "task" else 1.5

    whole = Drawing(settings(signal=signal), ["task", "aux", "third"], ["task", "aux", "third"], 1)
    first = play(whole, losses, range(25))
    stored = json.loads(json.dumps(whole.state()[1], sort_keys=True))
    again = Drawing(settings(signal=signal), ["task", "aux", "third"], ["task", "aux", "third"], 1)
    again.load_state({}, stored)
    assert play(again, losses, range(25, 60)) == play(whole, losses, range(25, 60))
    assert whole.state() == again.state()
    assert set(first) == {"task", "aux", "third"}


@pytest.mark.parametrize(("words", "said"), [
    (["sampling=proportional"], "reads one set of rows"),
    (["sampling=dynamic"], "reads one set of rows"),
    ([*together(*SETS[:2], "sampling=dynamic"), "sampling.signal=gain", "train.eval_every=null"], "eval_every=null"),
    ([*together(*SETS[:2], "sampling=dynamic"), "sampling.signal=gain", "data.validation=null",
      "data.validation_share=0"], "no validation rows of task"),
])  # fmt: skip
def test_what_has_nothing_to_go_by_is_refused(words: list[str], said: str, rows: list[str]) -> None:
    with pytest.raises(ConfigError, match=said):
        prepared_of(*TINY, *rows, *words)


@pytest.mark.parametrize(("sampling", "times"), [("together", 1), ("round_robin", 2)])
def test_an_epoch_is_as_long_as_the_rows_of_the_task_take(sampling: str, times: int, rows: list[str]) -> None:
    prepared = prepared_of(*TINY, *rows, *together(*SETS[:2]), BESIDE, f"sampling={sampling}", "train.epochs=2",
                           "train.batch_rows=12")  # fmt: skip
    assert prepared.order.steps_per_epoch == 5
    assert prepared.steps_per_epoch == 5 * times
    assert prepared.num_steps == 10 * times


def test_each_set_goes_through_its_own_epochs(rows: list[str], tmp_path: Path) -> None:
    words = ["train.batch_rows=12", "train.max_steps=10", "sampling=round_robin"]
    trainer = trainer_of(prepared_of(*TINY, *rows, *together(*SETS[:2]), BESIDE, *words), tmp_path / "run")
    seen: dict[str, list[int]] = {"task": [], "auxiliary/more": []}
    for step in range(10):
        batches = trainer.feed.at(step)
        assert len({batch.feed for batch in batches}) == 1
        for batch in batches:
            seen[batch.feed] += batch.row_ids
    assert sorted(seen["task"]) == list(range(60))

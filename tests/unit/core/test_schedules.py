"""Schedules against their formulas; durations and periods as users write them; seeds that depend on every word."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest

from llmtune.core.clock import parse_duration, parse_period, period_steps
from llmtune.core.ranges import one_of
from llmtune.core.schedules import SHAPES, Schedule, lr_schedule, staged_lr_schedule
from llmtune.core.seeds import fold, generator


def values(shape: str, **settings: float) -> list[float]:
    schedule = Schedule(shape=shape, num_steps=100, warmup_steps=10, **settings)  # type: ignore[arg-type]
    return [schedule(step) for step in range(101)]


@pytest.mark.parametrize("shape", SHAPES)
def test_warmup_rises_linearly_to_the_peak_and_never_falls_below_the_floor(shape: str) -> None:
    found = values(shape, floor=0.05)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10] == pytest.approx(1.0)
    assert all(0.05 <= value <= 1.0 for value in found[10:])
    rises = [later for earlier, later in itertools.pairwise(found[10:]) if later > earlier + 1e-12]
    assert rises == ([pytest.approx(1.0)] if shape == "cosine_restarts" else [])


def test_shapes_have_their_formula_half_way() -> None:
    half = 10 + 45
    assert values("linear")[half] == pytest.approx(0.5)
    assert values("cosine")[half] == pytest.approx(0.5)
    assert values("constant")[half] == 1.0
    assert values("polynomial", power=2.0)[half] == pytest.approx(0.25)
    assert values("inverse_sqrt")[half] == pytest.approx(math.sqrt(10 / 55))
    assert values("wsd", decay_share=0.4)[half] == pytest.approx(1.0)
    assert values("wsd", decay_share=0.4)[78] == pytest.approx(22 / 40)


@pytest.mark.parametrize("warmup", [0, 1, 100, 500, 800])
def test_wsd_falls_in_the_last_share_of_all_steps_whatever_the_warmup(warmup: int) -> None:
    schedule = Schedule(shape="wsd", num_steps=1000, warmup_steps=warmup, decay_share=0.2)
    assert [schedule(step) for step in range(warmup, 801)] == pytest.approx([1.0] * (801 - warmup))
    assert [schedule(step) for step in range(800, 1000)] == pytest.approx([1 - step / 200 for step in range(200)])


def test_wsd_falls_from_the_peak_where_warmup_ends_late() -> None:
    schedule = Schedule(shape="wsd", num_steps=1000, warmup_steps=900, decay_share=0.2)
    assert schedule(899) == schedule(900) == 1.0
    assert schedule(950) == pytest.approx(0.5)
    assert schedule(1000) == pytest.approx(0.0)


def test_restarts_go_back_to_the_peak_in_equal_cycles_and_end_low() -> None:
    found = values("cosine_restarts", cycles=3)
    assert [found[step] for step in (10, 40, 70)] == pytest.approx([1.0, 1.0, 1.0])
    assert [found[step] for step in (25, 55, 85)] == pytest.approx([0.5, 0.5, 0.5])
    assert found[39] < 0.01
    assert found[99] < 0.01
    assert values("cosine_restarts", cycles=1) == pytest.approx(values("cosine"))


@pytest.mark.parametrize(("warmup", "steps"), [(0.1, 20), (0.0, 0), (0, 0), (1, 1), (7, 7), (0.001, 0), (500, 500)])
def test_warmup_is_a_share_below_one_and_steps_from_one_on(warmup: float, steps: int) -> None:
    settings = SimpleNamespace(warmup=warmup, schedule="linear", min_lr_share=0.0, power=1.0, decay_share=0.2, cycles=2)
    schedule = lr_schedule(settings, 200)
    assert schedule.warmup_steps == steps
    assert schedule(0) == pytest.approx(1 / steps if steps else 1.0)
    rising = [schedule(step) for step in range(min(steps, 200))]
    assert rising == sorted(rising)
    assert schedule(steps) == pytest.approx(1.0)


def test_falling_shapes_end_at_the_floor() -> None:
    for shape in ("linear", "cosine", "cosine_restarts", "polynomial", "wsd"):
        assert values(shape, floor=0.1)[100] == pytest.approx(0.1)


@pytest.mark.parametrize(("text", "seconds"), [(90, 90), ("90", 90), ("90s", 90), ("1.5h", 5400), ("2d", 172800)])
def test_durations(text: str | int, seconds: float) -> None:
    assert parse_duration("max_time", text) == seconds


@pytest.mark.parametrize("text", ["soon", "-3m", "0", "5 weeks", ""])
def test_wrong_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"max_time: .* is no duration"):
        parse_duration("max_time", text)


def test_periods() -> None:
    assert parse_period("eval_every", "0.5ep") == (0.5, "epochs")
    assert period_steps("0.5ep", 7) == 4
    assert period_steps(400, 7) == 400
    assert period_steps("1ep", 7) == 7
    assert period_steps(None, 7) is None
    with pytest.raises(ValueError, match="no period"):
        parse_period("eval_every", "0.5")


def test_seeds_depend_on_every_word_and_on_nothing_else() -> None:
    assert fold(1, "order", 0) == fold(1, "order", 0) == 445740416922298889
    assert len({fold(1, "order", 0), fold(2, "order", 0), fold(1, "order", 1), fold(1, "dropout", 0)}) == 4
    assert generator(1, "a").integers(1000) == generator(1, "a").integers(1000)


def test_true_is_not_one() -> None:
    one_of("header", True, ("auto", True, False))
    with pytest.raises(ValueError, match="1 is not known"):
        one_of("header", 1, ("auto", True, False))


def test_each_stage_has_a_schedule_of_its_own() -> None:
    settings = SimpleNamespace(schedule="linear", warmup=0.1, min_lr_share=0.0, power=1.0, decay_share=0.2, cycles=2)
    factor_at = staged_lr_schedule(settings, 120, ((0, 20.0), (20, 1.0), (500, 3.0)))
    probe, tune = lr_schedule(settings, 20), lr_schedule(settings, 100)
    assert [factor_at(step) for step in range(20)] == [20 * probe(step) for step in range(20)]
    assert [factor_at(step) for step in range(20, 120)] == [tune(step) for step in range(100)]
    assert staged_lr_schedule(settings, 100)(37) == tune(37)

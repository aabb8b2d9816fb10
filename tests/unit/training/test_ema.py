"""Averages of the weights: their formulas, what is frozen, the way into the network and back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from llmtune.config.settings import TrainSettings
from llmtune.training.ema import OptimizersAverage, WeightAverage, equal_from, exponential, make_average


def moved(net: nn.Module, value: float) -> None:
    with torch.no_grad():
        for weight in net.parameters():
            if weight.requires_grad:
                weight.fill_(value)


def test_exponential_rate_starts_quick() -> None:
    rate = exponential(0.99)
    assert rate(0) == pytest.approx(0.9)
    assert rate(90) == pytest.approx(1 - 91 / 100)
    assert rate(10**6) == pytest.approx(0.01)


def test_exponential_average() -> None:
    net = nn.Linear(2, 2)
    average = WeightAverage(net, exponential(0.5))
    expected = None
    for step, value in enumerate((1.0, 2.0, 5.0, 0.0, 3.0, 7.0, 1.0, 1.0, 8.0, 2.0)):
        moved(net, value)
        average.update(step)
        keep = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else keep * expected + (1 - keep) * value
    assert average.average["weight"][0, 0].item() == pytest.approx(expected, rel=1e-5)


def test_equal_average_is_the_mean_of_the_end_of_the_run() -> None:
    net = nn.Linear(2, 2)
    average = WeightAverage(net, equal_from(0.7, 10))
    for step in range(10):
        moved(net, float(step))
        average.update(step)
        assert bool(average.average) == (step >= 7)
    assert average.average["bias"][0].item() == pytest.approx((7 + 8 + 9) / 3)


@pytest.mark.parametrize(("share", "num_steps", "first"), [(0.0, 5, 0), (0.75, 4, 3), (0.9999, 4, 3), (0.5, 1, 0)])
def test_equal_average_has_a_sample_however_short_the_run(share: float, num_steps: int, first: int) -> None:
    rate = equal_from(share, num_steps)
    assert [rate(step) > 0 for step in range(num_steps)] == [step >= first for step in range(num_steps)]
    assert rate(first) == 1.0


def test_a_run_that_goes_on_for_longer_forgets_the_average_of_its_first_end() -> None:
    net = nn.Linear(2, 2)
    short, longer = WeightAverage(net, equal_from(0.5, 10)), WeightAverage(net, equal_from(0.5, 30))
    for step in range(10):
        moved(net, float(step))
        short.update(step)
    tensors, plain = short.state()
    longer.load_state({name: value.clone() for name, value in tensors.items()}, plain)
    for step in range(10, 30):
        moved(net, float(step))
        longer.update(step)
        with longer.in_place():
            assert net.weight[0, 0].item() == pytest.approx(step if step < 15 else (15 + step) / 2)


def test_before_the_average_begins_weights_are_their_own() -> None:
    net = nn.Linear(2, 2)
    average = WeightAverage(net, equal_from(0.5, 10))
    moved(net, 4.0)
    average.update(0)
    with average.in_place():
        assert net.weight.eq(4.0).all()
    assert average.state() == ({}, {})


def test_the_average_is_in_place_inside_only() -> None:
    net = nn.Linear(2, 2)
    average = WeightAverage(net, equal_from(0, 10))
    for step, value in enumerate((1.0, 3.0)):
        moved(net, value)
        average.update(step)
    for _ in range(2):
        with average.in_place():
            assert net.weight.eq(2.0).all()
        assert net.weight.eq(3.0).all()
        assert average.average["weight"].eq(2.0).all()


def test_frozen_parameters_keep_their_bits_and_cost_nothing() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    kept = net[0].weight.clone()  # type: ignore[operator, union-attr]
    average = WeightAverage(net, exponential(0.9))
    for step in range(5):
        moved(net, float(step))
        average.update(step)
    assert set(average.average) == {"1.weight", "1.bias"}
    with average.in_place():
        assert torch.equal(net[0].weight, kept)  # type: ignore[arg-type]


def test_a_parameter_that_thaws_enters_and_one_that_freezes_is_followed() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    average = WeightAverage(net, equal_from(0, 4))
    net[0].requires_grad_(False)
    moved(net, 1.0)
    average.update(0)
    net[0].requires_grad_(True)
    net[1].requires_grad_(False)
    moved(net, 3.0)
    average.update(1)
    assert average.average["0.weight"].item() == 3.0
    assert average.average["1.weight"].item() == 1.0


def test_state_goes_and_comes_back() -> None:
    net = nn.Linear(2, 2)
    one, other = (WeightAverage(net, exponential(0.9)) for _ in range(2))
    for step in range(6):
        moved(net, float(step**2))
        one.update(step)
        if step == 2:
            tensors, plain = one.state()
            other.load_state({name: value.clone() for name, value in tensors.items()}, plain)
        if step > 2:
            other.update(step)
    assert all(torch.equal(one.average[name], other.average[name]) for name in one.average)


class Halves:
    """An optimizer whose average is half of the weight, of matrices only."""

    def averaged(self, weight: torch.Tensor) -> torch.Tensor | None:
        return weight.detach() / 2 if weight.ndim == 2 else None


def test_an_optimizers_own_average() -> None:
    net = nn.Linear(2, 2)
    average = OptimizersAverage(net, Halves())
    own = net.weight.detach().clone()
    bias = net.bias.detach().clone()
    assert set(average.average) == {"weight"}
    with average.in_place():
        assert torch.equal(net.weight, own / 2)
        assert torch.equal(net.bias, bias)
    assert torch.equal(net.weight, own)
    assert average.state() == ({}, {})


def test_who_asks_for_an_average_gets_it() -> None:
    net, plain = nn.Linear(2, 2), torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    make = lambda optimizer, **options: make_average(net, optimizer, SimpleNamespace(**options), 10)  # noqa: E731
    assert make(plain, ema=None, swa=None) is None
    assert isinstance(make(Halves(), ema=None, swa=None), OptimizersAverage)
    ema, swa = make(plain, ema=0.9, swa=None), make(plain, ema=None, swa=0.5)
    assert isinstance(ema, WeightAverage)
    assert isinstance(swa, WeightAverage)
    assert (ema.rate(10**6), swa.rate(4), swa.rate(6)) == (pytest.approx(0.1), 0.0, 0.5)


def test_two_averages_are_refused() -> None:
    from omegaconf import OmegaConf

    from llmtune.config.locate import PRIMARY, conf_dir, config_file

    values = OmegaConf.to_container(OmegaConf.load(str(config_file(PRIMARY, [conf_dir()]))))["train"]  # type: ignore
    with pytest.raises(ValueError, match=r"swa: set together with ema; .* train.ema=null"):
        TrainSettings(**{**values, "ema": 0.9, "swa": 0.75})

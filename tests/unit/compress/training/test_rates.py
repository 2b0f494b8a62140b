"""Learning rates over a training, against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from pipeline.compress.training.rates import FIRST, RISING, RateCurve


def test_cosine_warms_up_and_falls_to_zero() -> None:
    """Four steps up to the peak, half of it in the middle of the rest, and nothing at the end."""
    curve = RateCurve("cosine", 0.4, steps=24, warm=4, from_fraction=0)
    assert [curve.at_step(step) for step in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert curve.at_step(4) == pytest.approx(0.4)
    assert curve.at_step(14) == pytest.approx(0.2)
    assert curve.at_step(24) == pytest.approx(0.0, abs=1e-12)


def test_constant_stays_after_its_warm_up() -> None:
    """The small rate of classic fine-tuning."""
    curve = RateCurve("constant", 0.01, steps=10, warm=2, from_fraction=0)
    assert [curve.at_step(step) for step in range(10)] == pytest.approx([0.005, *[0.01] * 9])


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.75])
def test_rewinding_repeats_the_end_of_the_first_training(fraction: float) -> None:
    """Each step has the rate that the step of the same place had then; a warm-up does not count."""
    first = RateCurve("cosine", 0.1, steps=40, warm=0, from_fraction=0)
    left = round(40 * (1 - fraction))
    again = RateCurve("rewind", 0.1, steps=left, warm=7, from_fraction=fraction)
    rates = [again.at_step(step) for step in range(left)]
    assert rates == pytest.approx([first.at_step(40 - left + step) for step in range(left)])
    assert rates[0] == pytest.approx(0.05 * (1 + math.cos(math.pi * fraction)))


def test_one_cycle_rises_and_falls() -> None:
    """From a 25th to the peak after 30 % of the steps, then to nothing; never above the peak."""
    curve = RateCurve("one_cycle", 1.0, steps=100, warm=5, from_fraction=0)
    rates = [curve.at_step(step) for step in range(101)]
    assert rates[0] == pytest.approx(1 / FIRST)
    assert rates[int(RISING * 100)] == pytest.approx(1.0) == pytest.approx(max(rates))
    assert rates[15] == pytest.approx((1 + 1 / FIRST) / 2)
    assert rates[65] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert sorted(rates[:31]) == rates[:31]
    assert sorted(rates[30:], reverse=True) == rates[30:]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_trainings_have_rates(steps: int) -> None:
    """Nothing is divided by zero."""
    for name in ("cosine", "constant", "rewind", "one_cycle"):
        rates = [RateCurve(name, 0.1, steps=steps, warm=1, from_fraction=0.9).at_step(step) for step in range(steps)]
        assert all(0 < rate <= 0.1 for rate in rates)

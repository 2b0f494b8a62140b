"""Steps in simulated series of ratios: slow creep and jumps are found, noise and single spikes are not."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.latency.drift import find_steps, lasting, student_survival

POINTS, NOISE = 52, 0.005


def series(ratios: np.ndarray) -> list[tuple[str, float]]:
    """Date the ratios, one a week."""
    return [(f"week {number:02}", float(ratio)) for number, ratio in enumerate(ratios)]


def noisy(seed: int, points: int = POINTS) -> np.ndarray:
    """Return ratios around 1."""
    return np.exp(np.random.default_rng(seed).normal(0, NOISE, points))


def test_steady_series_rarely_have_a_slowdown() -> None:
    """Of 100 series of a year, at most two."""
    found = [lasting(points, find_steps(points)) for points in map(series, map(noisy, range(100)))]
    assert sum(bool(each) for each in found) <= 2


@pytest.mark.parametrize("seed", range(5))
def test_a_step_is_found_where_it_is(seed: int) -> None:
    """Three percent in week 30, within two weeks."""
    ratios = noisy(seed)
    ratios[30:] *= 1.03
    points = series(ratios)
    steps = lasting(points, find_steps(points))
    assert any(abs(step.index - 30) <= 2 for step in steps)
    assert sum(step.size for step in steps) == pytest.approx(0.03, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_creep_is_found(seed: int) -> None:
    """Half a percent each week passes every single gate and is a fifth in a year."""
    points = series(noisy(seed) * 1.005 ** np.arange(POINTS))
    assert lasting(points, find_steps(points))


def test_a_spike_is_no_step() -> None:
    """One bad week is followed by good ones."""
    for seed in range(10):
        ratios = noisy(seed)
        ratios[20] *= 1.2
        points = series(ratios)
        assert not lasting(points, find_steps(points))


def test_what_was_taken_back_does_not_last() -> None:
    """A slowdown that was repaired is found, and is no reason to fail."""
    ratios = noisy(1)
    ratios[15:30] *= 1.05
    points = series(ratios)
    assert any(step.size > 0.03 for step in find_steps(points))
    assert not lasting(points, find_steps(points))


def test_a_speedup_is_no_slowdown() -> None:
    """It is a step, downwards."""
    ratios = noisy(2)
    ratios[25:] *= 0.95
    points = series(ratios)
    assert [step.size < 0 for step in find_steps(points)] == [True]
    assert not lasting(points, find_steps(points))


@pytest.mark.parametrize("count", range(4))
def test_few_points_have_no_steps(count: int) -> None:
    """Two on each side are the least."""
    assert find_steps(series(noisy(0, count))) == ()


@pytest.mark.parametrize(
    ("t", "freedom", "expected"),
    [(0.0, 5, 0.5), (2.015048, 5, 0.05), (-2.015048, 5, 0.95), (12.7062, 1, 0.025), (3.090232, 1e7, 0.001)],
)
def test_student_survival(t: float, freedom: float, expected: float) -> None:
    """Values of printed tables."""
    assert student_survival(t, freedom) == pytest.approx(expected, rel=1e-4)

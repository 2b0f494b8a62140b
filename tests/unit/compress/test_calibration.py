"""Ranges of activations: independent of the order of images, cut where they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.compress.calibration import BINS, Histograms, Limits, entropy_range, percentile_range

if TYPE_CHECKING:
    from numpy.typing import NDArray


def histogram(values: NDArray[np.float32]) -> tuple[NDArray[np.int64], tuple[float, float]]:
    """Return the counts and limits of one tensor's values."""
    limits = Limits()
    limits.add({"x": values})
    histograms = Histograms(limits.ranges)
    histograms.add({"x": values})
    return histograms.counts["x"], limits.ranges["x"]


def normal(count: int = 100_000) -> NDArray[np.float32]:
    """Return values of a standard normal distribution."""
    return np.random.default_rng(0).standard_normal(count, dtype=np.float32)


def test_limits_hold_everything_seen() -> None:
    """Several additions widen them, per tensor."""
    limits = Limits()
    limits.add({"a": np.float32([1, 2]), "b": np.float32([-1])})
    limits.add({"a": np.float32([-3, 0])})
    assert limits.ranges == {"a": (-3.0, 2.0), "b": (-1.0, -1.0)}


def test_histograms_do_not_depend_on_the_order_of_images() -> None:
    """Nor on how values are spread over calls; nothing is lost at the edges."""
    values = normal(1000)
    limits = {"x": (float(values.min()), float(values.max()))}
    forward, backward = Histograms(limits), Histograms(limits)
    forward.add({"x": values})
    for part in np.split(values, 4)[::-1]:
        backward.add({"x": part})
    np.testing.assert_array_equal(forward.counts["x"], backward.counts["x"])
    assert forward.counts["x"].sum() == 1000


def test_a_percentile_leaves_out_both_tails() -> None:
    """99 per cent of a normal distribution lie within 2.58 standard deviations."""
    low, high = percentile_range(*histogram(normal()), percentile=99)
    assert (low, high) == (pytest.approx(-2.576, abs=0.05), pytest.approx(2.576, abs=0.05))


def test_the_hundredth_percentile_is_min_max() -> None:
    """Nothing is left out."""
    counts, limits = histogram(normal(1000))
    low, high = percentile_range(counts, limits, percentile=100)
    assert low == pytest.approx(limits[0], abs=2e-3)
    assert high == pytest.approx(limits[1], abs=2e-3)


def test_an_outlier_is_cut_and_the_zeros_of_relu_are_kept() -> None:
    """One value a hundred times larger than the rest does not set the range."""
    values = np.append(np.maximum(normal(), 0), np.float32(400))
    low, high = percentile_range(*histogram(values), percentile=99.9)
    assert low == 0
    assert 2.5 < high < 4.5
    assert entropy_range(*histogram(values))[1] < 200


def test_entropy_keeps_the_range_that_tells_most() -> None:
    """A uniform distribution loses by clipping; one with rare, far tails gains."""
    uniform = np.random.default_rng(0).uniform(-1, 1, 100_000).astype(np.float32)
    assert entropy_range(*histogram(uniform))[1] == pytest.approx(1, abs=0.02)
    tails = np.concatenate([normal(), np.float32([50, -50])])
    low, high = entropy_range(*histogram(tails))
    assert low == -high
    assert 3 < high < 25


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_tensors_keep_their_limits(value: float) -> None:
    """All values in one bin, or none counted at all."""
    counts, limits = histogram(np.full(10, value, dtype=np.float32))
    assert counts.shape == (BINS,)
    assert percentile_range(counts, limits, percentile=99.99)[1] == value
    assert entropy_range(counts, limits)[1] == pytest.approx(value)

"""Ranges of activations: independent of the order of images, cut where they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compress.quantization.calibration import (
    BINS,
    FACTORS,
    Histograms,
    Limits,
    entropy_range,
    mse_range,
    percentile_range,
)

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


def test_what_is_no_number_is_not_passed_over() -> None:
    """Wherever it stands among the images."""
    for order in ([np.nan, 1, 2], [1, 2, np.nan], [1, np.nan, 2]):
        limits = Limits()
        for value in order:
            limits.add({"a": np.float32([value])})
        assert np.isnan(limits.ranges["a"]).all()


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
    assert mse_range(counts, limits)[1] == pytest.approx(value)


def rounding_error(values: NDArray[np.float32], bounds: tuple[float, float]) -> float:
    """Return the mean squared error of values after 8 bits, computed in the plainest way."""
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    scale = (high - low) / 255
    point = round(-low / scale)
    return float(np.square((np.clip(np.rint(values / scale) + point, 0, 255) - point) * scale - values).mean())


def drawn(kind: str, seed: int) -> NDArray[np.float32]:
    """Return values such as activations have."""
    draws = np.random.default_rng(seed)
    normal = draws.standard_normal(20_000)
    values = {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "sparse": np.maximum(normal - 1.5, 0),
        "negative": -np.abs(normal),
        "far from zero": normal + 5,
        "heavy": draws.standard_t(3, 20_000),
        "laplace": draws.laplace(size=20_000),
        "silu": 3 * normal / (1 + np.exp(-3 * normal)),
        "uniform": draws.uniform(-2, 3, 20_000),
        "relu6": np.clip(2 * normal + 3, 0, 6),
    }
    return values[kind].astype(np.float32)


KINDS = ("normal", "relu", "sparse", "negative", "far from zero", "heavy", "laplace", "silu", "uniform", "relu6")
MANY = settings(max_examples=40, derandomize=True, deadline=None, database=None)


@MANY
@given(st.sampled_from(KINDS), st.integers(0, 2**16), st.floats(1e-3, 1e3))
def test_mse_finds_the_range_that_errs_least(kind: str, seed: int, factor: float) -> None:
    """Of all ranges that it tries, measured on the values themselves; within the limits, and for any unit."""
    values = drawn(kind, seed) * np.float32(factor)
    counts, limits = histogram(values)
    low, high = mse_range(counts, limits)
    assert limits[0] <= low <= high <= limits[1]
    best = min(rounding_error(values, (limits[0] * each, limits[1] * each)) for each in FACTORS)
    assert rounding_error(values, (low, high)) <= 1.1 * best
    assert rounding_error(values, (low, high)) <= 1.1 * rounding_error(values, limits)


@MANY
@given(st.sampled_from(KINDS), st.integers(0, 2**16), st.integers(1, 5))
def test_mse_does_not_depend_on_order_or_on_repetition(kind: str, seed: int, times: int) -> None:
    """Seeing all images twice says nothing new."""
    values = drawn(kind, seed)
    counts, limits = histogram(values)
    assert mse_range(*histogram(np.tile(values[::-1], times))) == mse_range(counts, limits)


@MANY
@given(st.sampled_from(KINDS), st.integers(0, 2**16))
def test_mse_mirrors(kind: str, seed: int) -> None:
    """The range of the negative values is the mirrored one."""
    counts, limits = histogram(drawn(kind, seed))
    low, high = mse_range(counts, limits)
    mirrored = mse_range(counts[::-1], (-limits[1], -limits[0]))
    assert mirrored == pytest.approx((-high, -low))


def test_mse_of_nothing_and_of_an_outlier() -> None:
    """No counts keep the limits; a single value that costs less clipped than kept is clipped."""
    assert mse_range(np.zeros(BINS, np.int64), (-1.0, 2.0)) == (-1.0, 2.0)
    values = np.append(np.maximum(normal(1_000_000), 0), np.float32(12))
    assert mse_range(*histogram(values))[1] < 9

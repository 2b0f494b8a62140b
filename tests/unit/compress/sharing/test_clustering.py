"""K-means of numbers: what a round may do, what it ends with, and where it begins."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compress.sharing.clustering import first_centroids, moved_centroids, nearest_centroid

STARTS = ("linear", "density", "kmeans++")
NONE = np.array([])


def distance(values: np.ndarray, weights: np.ndarray, book: np.ndarray) -> float:
    """Return the weighted sum of squared distances to the nearest of a codebook, by comparing with all of it."""
    return float((weights * ((values[:, None] - book[None]) ** 2).min(axis=1)).sum())


def best_distance(values: np.ndarray, count: int) -> float:
    """Return the least distance of any codebook, by trying every way to cut the sorted values."""
    numbers = np.sort(values)
    cuts = combinations(range(1, numbers.size), count - 1)
    parts = (np.split(numbers, each) for each in cuts)
    return min(sum(float(((part - part.mean()) ** 2).sum()) for part in found) for found in parts)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(STARTS), st.integers(1, 6), st.sampled_from([(), (-1.0, 1.0)]))
def test_it_ends_where_no_centroid_would_move(seed: int, start: str, count: int, fixed: tuple[float, ...]) -> None:
    """Each is the weighted mean of what is nearest to it; those that are fixed stay; the start was not better."""
    random = np.random.default_rng(seed)
    values, weights = random.standard_normal(60), random.uniform(0.1, 2, 60)
    held = np.array(fixed)
    begun = first_centroids(values, count, start, random)  # type: ignore[arg-type]
    book = moved_centroids(values, weights, begun, held)
    assert book.size == count + held.size
    assert np.all(np.diff(book) >= 0)
    assert set(held) <= set(book)
    places = nearest_centroid(values, book)
    assert np.allclose(np.abs(values - book[places]), np.abs(values[:, None] - book[None]).min(axis=1))
    for place, centroid in enumerate(book):
        own = places == place
        if own.any() and centroid not in held:
            assert centroid == pytest.approx(np.average(values[own], weights=weights[own]))
    assert distance(values, weights, book) <= distance(values, weights, np.concatenate([begun, held])) + 1e-9


def test_with_the_best_of_many_starts_it_is_the_best_partition() -> None:
    """As every way to cut seven sorted values into three tells."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        values = random.standard_normal(7)
        ones = np.ones(7)
        found = min(
            distance(values, ones, moved_centroids(values, ones, first_centroids(values, 3, "kmeans++", random), NONE))
            for _ in range(30)
        )
        assert found == pytest.approx(best_distance(values, 3), abs=1e-12)


def test_where_it_begins() -> None:
    """Evenly between the ends; at even quantiles; at values, none of which is drawn twice while others are left."""
    values, random = np.array([0.0, 1.0, 2.0, 3.0, 100.0]), np.random.default_rng(0)
    assert first_centroids(values, 3, "linear", random).tolist() == [0, 50, 100]
    assert first_centroids(values, 2, "density", random).tolist() == [1, 3]
    assert first_centroids(values, 5, "kmeans++", random).tolist() == values.tolist()
    assert first_centroids(np.zeros(4), 2, "kmeans++", random).tolist() == [0, 0]

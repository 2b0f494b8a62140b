"""K-means of numbers: a few centroids for the weights of a layer, with some that do not move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.compress.sharing.names import CentroidStart

    Numbers = NDArray[np.float64]

#: Rounds of k-means at most; a few dozen are usual.
_ROUNDS = 300


def first_centroids(values: Numbers, count: int, start: CentroidStart, random: np.random.Generator) -> Numbers:
    """Return `count` centroids to begin with, in ascending order.

    `linear`: evenly between the smallest and the largest value, which keeps centroids for the few large weights (Han et
    al., "Deep Compression", ICLR 2016, section 3.2). `density`: at even quantiles. `kmeans++`: values drawn in
    proportion to their squared distance from those that are drawn already (Arthur and Vassilvitskii 2007).
    """
    match start:
        case "linear":
            return np.linspace(values.min(), values.max(), count)
        case "density":
            return np.quantile(values, (np.arange(count) + 0.5) / count)
        case "kmeans++":
            drawn = [values[random.integers(values.size)]]
            nearest = (values - drawn[0]) ** 2
            while len(drawn) < count:
                total = nearest.sum()
                chance = nearest / total if total > 0 else None
                drawn.append(values[random.choice(values.size, p=chance)])
                nearest = np.minimum(nearest, (values - drawn[-1]) ** 2)
            return np.sort(np.array(drawn))


def moved_centroids(values: Numbers, weights: Numbers, centroids: Numbers, fixed: Numbers) -> Numbers:
    """Return centroids, with the `fixed` ones among them, where no round of k-means moves one any more; ascending.

    The sum of weights * (value - nearest centroid)^2 falls with each round or stays (Lloyd 1982). A centroid that is
    left without values takes the value that costs most, as long as one costs anything.

    Args:
        values: numbers [N].
        weights: how much each counts [N], positive.
        centroids: those that move [K].
        fixed: those that stay where they are [F].
    """
    order = np.argsort(values, kind="stable")
    numbers, counts = values[order], weights[order]
    book, held = np.concatenate([centroids, fixed]), np.repeat([False, True], [centroids.size, fixed.size])
    for _ in range(_ROUNDS):
        order = np.argsort(book, kind="stable")
        book, held = book[order], held[order]
        moved, filled = _one_round(numbers, counts, book, held)
        if np.array_equal(moved, book):
            costs = counts * (numbers - book[nearest_centroid(numbers, book)]) ** 2
            spare = np.flatnonzero(~filled & ~held)
            if not spare.size or costs.max(initial=0) <= 0:
                break
            moved[spare[0]] = numbers[costs.argmax()]
        book = moved
    return np.sort(book)


def _one_round(
    numbers: Numbers, counts: Numbers, book: Numbers, held: NDArray[np.bool_]
) -> tuple[Numbers, NDArray[np.bool_]]:
    """Return where ascending centroids move from ascending numbers, and which of them have any."""
    edges = np.concatenate([[0], np.searchsorted(numbers, (book[1:] + book[:-1]) / 2, side="right"), [numbers.size]])
    sums, totals = (np.concatenate([[0.0], np.cumsum(each)]) for each in (numbers * counts, counts))
    shares, masses = np.diff(sums[edges]), np.diff(totals[edges])
    filled = np.diff(edges) > 0
    return np.where(held | ~filled, book, shares / np.where(filled, masses, 1)), filled


def nearest_centroid(values: Numbers, centroids: Numbers) -> NDArray[np.int64]:
    """Return the place of the nearest of ascending centroids for each value; in the middle of two that of the lower."""
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values, side="left").astype(np.int64)

"""Deterministic, stratified splits: the same seed gives the same images on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.dataset import Split
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def stratified(strata: NDArray[np.int64], count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw `count` positions such that every stratum gives its share, and return (rest, drawn), both sorted.

    Shares are rounded by largest remainder, so that exactly `count` positions are drawn. Raises InputError when
    either part would be empty.
    """
    total = len(strata)
    if not 0 < count < total:
        raise InputError(f"cannot take {count} of {total} images: both parts of a split need at least one image")
    generator = np.random.default_rng(seed)
    values, sizes = np.unique(strata, return_counts=True)
    exact = sizes * (count / total)
    quota = np.floor(exact).astype(np.int64)
    remainder_order = np.argsort(-(exact - quota), kind="stable")
    quota[remainder_order[: count - int(quota.sum())]] += 1
    drawn = np.zeros(total, dtype=bool)
    for value, size in zip(values, quota, strict=True):
        members = generator.permutation(np.flatnonzero(strata == value))
        drawn[members[:size]] = True
    return np.flatnonzero(~drawn), np.flatnonzero(drawn)


def take(images_NCHW: NDArray[np.uint8], labels: NDArray[np.int64], positions: NDArray[np.int64]) -> Split:
    """Return the images and labels at these positions."""
    return Split(np.ascontiguousarray(images_NCHW[positions]), np.ascontiguousarray(labels[positions]))


def held_out(images_NCHW: NDArray[np.uint8], labels: NDArray[np.int64], count: int, seed: int) -> tuple[Split, Split]:
    """Hold `count` images out, stratified by class, and return (train, validation)."""
    rest, drawn = stratified(labels, count, seed)
    return take(images_NCHW, labels, rest), take(images_NCHW, labels, drawn)

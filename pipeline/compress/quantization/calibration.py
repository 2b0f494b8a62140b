"""Ranges of activations for quantization: min-max, percentile, entropy and MSE, from images seen one after the other.

Memory does not grow with the number of images: a first pass over them finds the limits of each tensor, a second one
(all but min-max) counts values in histograms between these limits. The result does not depend on the order of
the images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.compress.quantization.names import HistogramMethod

    Range = tuple[float, float]
    Tensors = Mapping[str, NDArray[np.float32]]


#: Bins of a histogram over [-m, m], m the largest absolute value: 2048 on each side of zero, as in Migacz 2017.
BINS = 4096
#: Candidate thresholds of the entropy method are this many bins apart.
_STRIDE = 8
#: Ranges that the MSE method tries: the limits times these factors.
FACTORS = np.linspace(0.02, 1.0, 99)
LEVELS = 256
_SMOOTHING = 1e-4


class Limits:
    """Smallest and largest value of each tensor."""

    def __init__(self) -> None:
        self.ranges: dict[str, Range] = {}

    def add(self, tensors: Tensors) -> None:
        """Widen the ranges to hold `tensors`; a value that is not a number makes both ends that."""
        for name, values in tensors.items():
            low, high = self.ranges.get(name, (np.inf, -np.inf))
            self.ranges[name] = float(np.minimum(low, values.min())), float(np.maximum(high, values.max()))


class Histograms:
    """How often the values of each tensor fall in each of 4096 bins between minus and plus its largest magnitude."""

    def __init__(self, limits: Mapping[str, Range]) -> None:
        """Take the smallest and largest value of each tensor, from a first pass over the same images."""
        self.limits = dict(limits)
        self.counts = {name: np.zeros(BINS, dtype=np.int64) for name in limits}

    def add(self, tensors: Tensors) -> None:
        """Count the values of `tensors`."""
        for name, values in tensors.items():
            bound = _bound(self.limits[name])
            if bound > 0:
                bins = ((values.ravel() / bound + 1) * (BINS / 2)).astype(np.int64)
                self.counts[name] += np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)

    def find(self, method: HistogramMethod, percentile: float) -> dict[str, Range]:
        """Return the range of each tensor by the method; `percentile` is for that one."""
        if method == "percentile":
            return {name: percentile_range(bins, self.limits[name], percentile) for name, bins in self.counts.items()}
        function = entropy_range if method == "entropy" else mse_range
        return {name: function(bins, self.limits[name]) for name, bins in self.counts.items()}


def mse_range(counts: NDArray[np.int64], limits: Range) -> Range:
    """Return the range, the limits shrunk by one factor, in which 256 levels have the smallest mean squared error.

    What lies inside errs by rounding, evenly within a level: the square of its width over 12; but within half a level
    of zero, which is exact, by its own size: half of what a ReLU makes does not err at all. What lies outside errs by
    its distance to the end. `counts` [4096] is a histogram between minus and plus the larger magnitude of `limits`.
    Source: the idea of Banner et al. 2019 (ACIQ) on the values themselves instead of a distribution fitted to them.
    """
    bound = _bound(limits)
    if counts.sum() == 0 or bound == 0:
        return limits
    values = ((np.arange(BINS) + 0.5) / BINS * 2 - 1) * bound
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)

    def error(factor: float) -> float:
        clipped = np.clip(values, low * factor, high * factor)
        outside = (values - clipped) ** 2
        level = (high - low) * factor / (LEVELS - 1)
        inside = np.where(np.abs(values) < level / 2, values**2, level**2 / 12)
        return float((counts * np.where(outside > 0, outside, inside)).sum())

    best = float(min(FACTORS[::-1], key=error))
    return max(limits[0], low * best), min(limits[1], high * best)


def percentile_range(counts: NDArray[np.int64], limits: Range, percentile: float) -> Range:
    """Return the range, within `limits`, that leaves out (100 - percentile) / 2 per cent of the values on each side.

    `counts` [4096] is a histogram between minus and plus the larger magnitude of `limits`.
    """
    bound, total = _bound(limits), int(counts.sum())
    if total == 0:
        return limits
    allowed = total * (100 - percentile) / 200
    below = np.cumsum(counts)
    first = int(np.searchsorted(below, allowed, side="right"))
    last = int(np.searchsorted(below, total - allowed, side="left"))
    width = 2 * bound / BINS
    return max(limits[0], first * width - bound), min(limits[1], (last + 1) * width - bound)


def entropy_range(counts: NDArray[np.int64], limits: Range) -> Range:
    """Return the range, within `limits`, whose quantized values tell most about the real ones.

    Of all thresholds t the one is taken that minimises the Kullback-Leibler divergence between the distribution of
    magnitudes clipped at t and what 8 bits make of it: 128 levels for signed tensors, 256 for non-negative ones.

    Source: Migacz 2017 (8-bit inference with TensorRT). Zeros are represented exactly in any range, so the first bin,
    which holds the zeros of ReLU, is set to its neighbour's count.
    """
    bound = _bound(limits)
    magnitudes = (counts[BINS // 2 :] + counts[: BINS // 2][::-1]).astype(np.float64)
    magnitudes[0] = magnitudes[1]
    if magnitudes.sum() == 0:
        return limits
    levels = 128 if limits[0] < 0 else 256
    candidates = range(levels, BINS // 2 + 1, _STRIDE)
    best = min(reversed(candidates), key=lambda stop: _divergence(magnitudes, stop, levels))
    threshold = best * bound / (BINS // 2)
    return max(limits[0], -threshold), min(limits[1], threshold)


def _divergence(magnitudes: NDArray[np.float64], stop: int, levels: int) -> float:
    """Return KL(clipped || quantized) when the first `stop` bins are represented with `levels` levels.

    What is clipped goes into the last bin. A level's count is spread over the bins that it stands for and that hold
    anything; a little of everything is spread over all of them, so that a single value in an empty place is not
    infinitely bad.
    """
    clipped = magnitudes[:stop].copy()
    clipped[-1] += magnitudes[stop:].sum()
    filled = clipped > 0
    level = np.arange(stop) * levels // stop
    sharing = np.bincount(level, weights=filled, minlength=levels)
    spread = np.bincount(level, weights=magnitudes[:stop], minlength=levels) / np.maximum(sharing, 1)
    quantized = np.where(filled, spread[level], 0.0)
    p, q = clipped[filled] / clipped.sum(), quantized[filled] / max(quantized.sum(), 1.0)
    q = (1 - _SMOOTHING) * q + _SMOOTHING / len(q)
    return float((p * np.log(p / q)).sum())


def _bound(limits: Range) -> float:
    return max(abs(limits[0]), abs(limits[1]))

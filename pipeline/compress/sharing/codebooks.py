"""Codebooks of a network's weights: made by k-means, found again in weights that share values, and written back.

A weight is factor * value: the value is one of a codebook of a layer or of an output channel. The factor is 1, or on
a grid of quantized weights the largest one of the output channel: then values are multiples of 1/127 (of 1/64 in 7
bits), of which 1 and -1 are always there, so that weights with a scale for each channel have the codebook's own
integers, whatever a batch norm that is folded in has made of each channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.compress.sharing.clustering import first_centroids, moved_centroids, nearest_centroid
from pipeline.compress.sharing.names import GRID_LEVELS
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.compress.sharing.names import CentroidGradient, CentroidStart, CodebookGrid, CodebookScope

#: Values of a grid that are nearer than this are one: weights are products in single precision.
_SAME = 1e-6
#: On a grid each channel has a largest weight, which may be positive or negative, and another value.
_FEWEST = 4


@dataclass(frozen=True)
class SharingRule:
    """How the weights of a parameter are shared: at most `clusters` values, zero among them where it is sparse.

    `outputs` is its dimension of output channels.
    """

    clusters: int
    scope: CodebookScope
    grid: CodebookGrid
    gradient: CentroidGradient
    outputs: int = 0


@dataclass(frozen=True)
class Codebook:
    """Values of shared weights, ascending within a channel's own: weight = factors * values[places].

    Attributes:
        values: float64 [K]; of a codebook for each channel those of all channels, one after the other.
        places: int64, in the weight's shape.
        factors: float64, broadcast to the weight's shape.
        fixed: bool [K], values that training does not move: zero, and the ends of a grid.
        most: the largest size of a value: 1 on a grid, where factors are the largest weights.
    """

    values: Tensor
    places: Tensor
    factors: Tensor
    fixed: Tensor
    most: float

    def weight(self) -> Tensor:
        """Return the weights, in single precision."""
        return (self.factors * self.values[self.places]).float()

    def on_grid(self, levels: int) -> Codebook:
        """Return it with values at multiples of 1/levels; none but zero itself becomes zero."""
        steps = (self.values * levels).round()
        lost = (steps == 0) & (self.values != 0)
        return replace(self, values=torch.where(lost, self.values.sign(), steps) / levels)


def make_codebook(weight: Tensor, rule: SharingRule, start: CentroidStart, seed: int) -> Codebook:
    """Return a codebook for weights by k-means; zeros keep a value of their own, and nothing else becomes zero.

    A layer may have fewer weights that are not zero than clusters: then each keeps its own value, but for the grid.

    Raises InputError when there are more clusters than weights, which may be those of one channel.
    """
    numbers = weight.detach().double().cpu()
    factors = _factors(numbers, rule)
    scaled, random = (numbers / factors).numpy(), np.random.default_rng(seed)
    heavy = factors.expand_as(numbers).square().numpy()
    places, values, begin = np.zeros(scaled.shape, np.int64), [], 0
    for part in _parts(scaled.shape, rule):
        own = _centroids(scaled[part].ravel(), heavy[part].ravel(), rule, start, random)
        places[part] = _assigned(scaled[part], own) + begin
        values.append(own)
        begin += own.size
    found = _with_fixed(np.concatenate(values), places, factors, rule)
    return found.on_grid(GRID_LEVELS[rule.grid]) if rule.grid in GRID_LEVELS else found


def find_codebook(weight: Tensor, rule: SharingRule) -> Codebook:
    """Return the codebook that weights have, by the values that are in them.

    On a grid channels may have been turned, as by a batch norm with a negative weight: their factors are negative.

    Raises InputError when there are more values than clusters.
    """
    numbers = weight.detach().double().cpu()
    factors = _factors(numbers, rule)
    if rule.grid in GRID_LEVELS and _distinct((numbers / factors).numpy(), rule)[0].size > rule.clusters:
        factors = factors * _turned(numbers / factors, rule.outputs)
    scaled = (numbers / factors).numpy()
    places, values, begin = np.zeros(scaled.shape, np.int64), [], 0
    for part in _parts(scaled.shape, rule):
        own, inverse = _distinct(scaled[part], rule)
        if own.size > rule.clusters:
            raise InputError(f"found {own.size} values, allowed: the {rule.clusters} of its codebook")
        places[part] = inverse + begin
        values.append(own)
        begin += own.size
    return _with_fixed(np.concatenate(values), places, factors, rule)


def _factors(numbers: Tensor, rule: SharingRule) -> Tensor:
    """Return what values are multiplied by: the largest size of each output channel on a grid, else 1."""
    shape = [-1 if dim == rule.outputs else 1 for dim in range(numbers.ndim)]
    if rule.grid == "float":
        return torch.ones([1] * numbers.ndim, dtype=torch.float64)
    largest = numbers.abs().movedim(rule.outputs, 0).flatten(1).amax(dim=1)
    return torch.where(largest > 0, largest, torch.ones_like(largest)).reshape(shape)


def _turned(scaled: Tensor, outputs: int) -> Tensor:
    """Return 1 or -1 for each output channel, so that all of them together have few values; shaped to broadcast."""
    known: set[float] = set()
    signs = []
    for channel in scaled.movedim(outputs, 0).flatten(1):
        own = {round(each, 5) for each in channel.unique().tolist()}
        other = {-each for each in own}
        turned = len(other - known) < len(own - known)
        known |= other if turned else own
        signs.append(-1.0 if turned else 1.0)
    return torch.tensor(signs, dtype=torch.float64).reshape([-1 if dim == outputs else 1 for dim in range(scaled.ndim)])


def _parts(shape: tuple[int, ...], rule: SharingRule) -> list[tuple[slice | int, ...]]:
    """Return where the weights of each codebook are: all of them, or those of one output channel."""
    if rule.scope == "layer":
        return [(slice(None),) * len(shape)]
    before = (slice(None),) * rule.outputs
    return [(*before, channel) for channel in range(shape[rule.outputs])]


def _centroids(
    numbers: NDArray[np.float64],
    heavy: NDArray[np.float64],
    rule: SharingRule,
    start: CentroidStart,
    random: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the values of one codebook, ascending: zero if it is among the weights, fixed ones, and k-means."""
    alive = numbers != 0
    fixed = np.array([-1.0, 1.0]) if rule.grid in GRID_LEVELS else np.array([])
    if rule.grid in GRID_LEVELS and rule.clusters < _FEWEST:
        raise InputError(f"found {rule.clusters} clusters, allowed with grid {rule.grid}: {_FEWEST} or more")
    zero = [] if alive.all() else [0.0]
    if not alive.any():
        return np.array([0.0])
    if rule.clusters > numbers.size:
        raise InputError(f"found {rule.clusters} clusters for {numbers.size} weights")
    others = np.setdiff1d(numbers[alive], fixed)
    free = min(rule.clusters - len(zero) - fixed.size, others.size)
    begun = first_centroids(others, free, start, random) if free else others
    moved = moved_centroids(numbers[alive], heavy[alive], begun, fixed)
    return np.sort(np.concatenate([moved[moved != 0] if zero else moved, zero]))


def _assigned(numbers: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the place of each number's value: zero's own for zeros, else the nearest other one."""
    if 0.0 not in values:
        return nearest_centroid(numbers, values)
    zero = int(np.flatnonzero(values == 0)[0])
    others = np.delete(np.arange(values.size), zero)
    if not others.size:
        return np.zeros(numbers.shape, np.int64)
    return np.where(numbers == 0, zero, others[nearest_centroid(numbers, values[others])])


def _distinct(numbers: NDArray[np.float64], rule: SharingRule) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the values among numbers and the place of each: on a grid, what rounding told apart is one."""
    values, inverse = np.unique(numbers, return_inverse=True)
    if rule.grid == "float":
        return values, inverse.reshape(numbers.shape)
    first = np.concatenate([[True], np.diff(values) > _SAME])
    return values[first], (np.cumsum(first) - 1)[inverse].reshape(numbers.shape)


def _with_fixed(values: NDArray[np.float64], places: NDArray[np.int64], factors: Tensor, rule: SharingRule) -> Codebook:
    """Return a codebook, with zero and the ends of a grid exact and fixed."""
    ends = (np.abs(np.abs(values) - 1) < _SAME) if rule.grid in GRID_LEVELS else np.zeros(values.shape, bool)
    exact = np.where(ends, np.sign(values), values)
    held = torch.from_numpy(ends | (values == 0))
    most = 1.0 if rule.grid in GRID_LEVELS else math.inf
    return Codebook(torch.from_numpy(exact), torch.from_numpy(places), factors, held, most)

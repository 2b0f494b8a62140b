"""Coordinate descent: each group at its best place and each block there or not, in turn, for a price of cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from pipeline.compress.pruning.allocation.moves import Landscape, Point

_SWEEPS = 12  # over all groups and blocks at most
_EQUAL = 1e-12  # relative: values that differ by less are equal, so that no sweep follows on rounding


def value_at(landscape: Landscape, price: float) -> Callable[[Point], float]:
    """Return the function of a point that is to be least: damage + price * cost."""
    return lambda point: landscape.damage(point) + price * landscape.cost(point)


def cheapest(landscape: Landscape) -> Point:
    """Return a point of least cost, whatever the damage: a width can cost more than the next wider one."""
    point = landscape.narrowest
    for _ in range(_SWEEPS):
        before = point
        for group in landscape.moving(point):
            point = point.moved(group, _widest_least(landscape.along(point, group)))
        if point == before:
            break
    return point


def settled(landscape: Landscape, point: Point, price: float) -> Point:
    """Return a point that no single group or block improves, from `point` on."""
    value = value_at(landscape, price)
    for _ in range(_SWEEPS):
        before = point
        point = _swept(landscape, point, price, landscape.choices.grids)
        for block in landscape.choices.blocks:
            other = point.toggled(block)
            if block not in other.dropped:  # it returns, with its groups at their best
                other = _swept(landscape, other, price, landscape.choices.inside.get(block, ()))
            if value(other) < value(point) * (1 - _EQUAL):
                point = other
        if point == before:
            break
    return point


def _swept(landscape: Landscape, point: Point, price: float, groups: Iterable[str]) -> Point:
    """Return the point with each of these groups at its best place, one after another."""
    moving = set(landscape.moving(point))
    for group in groups:
        if group in moving:
            values = landscape.choices.damage[group] + price * landscape.along(point, group)
            point = point.moved(group, _widest_least(values))
    return point


def _widest_least(values: NDArray[np.float64]) -> int:
    """Return the last place of the least value."""
    least = values.min()
    return int(np.flatnonzero(values <= least + _EQUAL * abs(least))[-1])

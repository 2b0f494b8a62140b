"""Single steps towards a target by damage per cost, and exchanges of one choice for others at no more cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pipeline.compress.pruning.allocation.moves import Floats, Landscape, Point

#: Questions to the model after which no further exchange is tried: some seconds.
EVALUATIONS = 25_000
_STEPS = 3  # places by which a group gets wider or narrower at once in an exchange
_EQUAL = 1e-9  # relative: damages that differ by less are equal


class Name(NamedTuple):
    """A block or a group: the two may have the same name."""

    kind: str
    name: str


@dataclass(frozen=True)
class _Step:
    """A change of one group or block: its merit, the damage and the cost after it, and where it leads."""

    merit: float
    damage: float
    cost: float
    point: Point


def reduced(landscape: Landscape, point: Point, target: float, fixed: frozenset[Name] = frozenset()) -> Point:
    """Return the point with narrower groups and fewer blocks until it costs no more than the target.

    Each step is the one of least damage per cost saved, the last one the one of least damage. `fixed` groups and blocks
    stay as they are. The result can still cost more, where nothing is left to take.
    """
    names = [name for name in _names(landscape) if name not in fixed]
    for before, after in _greedy(landscape, point, names, partial(_cheaper, landscape)):
        if after.cost <= target:
            last = [step for name in names if (step := _enough(landscape, before, name, target))]
            return min(last, key=lambda step: step.damage).point
        point = after.point
    return point


def filled(landscape: Landscape, point: Point, target: float, fixed: frozenset[Name] = frozenset()) -> Point:
    """Return the point with wider groups and more blocks as long as it costs no more than the target.

    Each step is the one of most damage undone per cost; what costs nothing is taken first. `fixed` groups and blocks
    stay as they are.
    """
    names = [name for name in _names(landscape) if name not in fixed]
    for _, after in _greedy(landscape, point, names, partial(_better, landscape, target=target)):
        point = after.point
    return point


def _names(landscape: Landscape) -> list[Name]:
    """Return all blocks and groups."""
    blocks = [Name("block", block) for block in landscape.choices.blocks]
    return [*blocks, *(Name("group", group) for group, grid in landscape.choices.grids.items() if len(grid) > 1)]


def _greedy(
    landscape: Landscape, point: Point, names: Sequence[Name], step: Callable[[Point, Name], _Step | None]
) -> Iterator[tuple[Point, _Step]]:
    """Yield one step after another, the one of most merit first, each with the point that it starts from.

    Merits only fall as steps are taken, so those of earlier points are bounds, and few are worked out anew.
    """
    heap = [(-inf, order, name) for order, name in enumerate(names)]
    order = {name: place for place, name in enumerate(names)}
    while heap:
        _, place, name = heappop(heap)
        found = step(point, name)
        if found is None:
            continue
        heappush(heap, (-found.merit, place, name))
        if heap[0][2] == name:
            yield point, found
            point = found.point
            if name.kind == "block":  # when it returns, so do its groups
                inside = {Name("group", group) for group in landscape.choices.inside.get(name.name, ())}
                heap = [entry for entry in heap if entry[2] not in inside]
                for group in inside & order.keys():
                    heappush(heap, (-inf, order[group], group))
                heapify(heap)


def _cheaper(landscape: Landscape, point: Point, name: Name) -> _Step | None:
    """Return the step with a group or block that saves cost for the least damage, if there is one."""
    damage, cost = landscape.damage(point), landscape.cost(point)
    if name.kind == "block":
        other = _without(landscape, point, name.name)
        return replace(other, merit=(damage - other.damage) / (cost - other.cost)) if other else None
    here, curve, costs = _line(landscape, point, name.name)
    saved = costs[here] - costs[:here]
    places = np.flatnonzero(saved > 0)
    if not len(places):
        return None
    merits = -(curve[places] - curve[here]) / saved[places]
    best = int(merits.argmax())
    place = int(places[best])
    lost = float(curve[place] - curve[here])
    return _Step(float(merits[best]), damage + lost, float(costs[place]), point.moved(name.name, place))


def _enough(landscape: Landscape, point: Point, name: Name, target: float) -> _Step | None:
    """Return the step with a group or block that brings the cost to the target for the least damage, if any does."""
    if name.kind == "block":
        other = _without(landscape, point, name.name)
        return other if other and other.cost <= target else None
    here, curve, costs = _line(landscape, point, name.name)
    places = np.flatnonzero(costs[:here] <= target)
    if not len(places):
        return None
    place = int(places[-1])
    lost = float(curve[place] - curve[here])
    return _Step(0.0, landscape.damage(point) + lost, float(costs[place]), point.moved(name.name, place))


def _better(landscape: Landscape, point: Point, name: Name, *, target: float) -> _Step | None:
    """Return the step with a group or block that undoes most damage per cost within the target, if there is one."""
    damage, cost = landscape.damage(point), landscape.cost(point)
    if name.kind == "block":
        other = point.toggled(name.name)
        undone = damage - landscape.damage(other) if name.name in point.dropped else 0.0
        if undone <= 0 or (after := landscape.cost(other)) > target:
            return None
        return _Step(undone / (after - cost) if after > cost else inf, damage - undone, after, other)
    here, curve, costs = _line(landscape, point, name.name)
    undone_at, added = curve[here] - curve, costs - costs[here]
    free = added <= 0
    fits = (costs <= target) & ((undone_at > 0) | free)
    places = here + 1 + np.flatnonzero(fits[here + 1 :])
    if not len(places):
        return None
    merits = np.where(free[places], inf, undone_at[places] / np.where(free, 1.0, added)[places])
    best = len(merits) - 1 - int(merits[::-1].argmax())  # the widest of equal merit
    place = int(places[best])
    after = damage - float(undone_at[place])
    return _Step(float(merits[best]), after, float(costs[place]), point.moved(name.name, place))


def _without(landscape: Landscape, point: Point, block: str) -> _Step | None:
    """Return the step that drops a block, if it is there and that saves anything."""
    if block in point.dropped:
        return None
    cost, other = landscape.cost(point), point.toggled(block)
    left = landscape.cost(other)
    return _Step(0.0, landscape.damage(other), left, other) if left < cost else None


def _line(landscape: Landscape, point: Point, group: str) -> tuple[int, Floats, Floats]:
    """Return a group's place, and damage and cost of all its places; none but its own when it left with a block."""
    here, curve = point.places[group], landscape.choices.damage[group]
    if group in landscape.gone(point):
        return 0, curve[:1], np.array([landscape.cost(point)])
    return here, curve, landscape.along(point, group)


def exchanged(landscape: Landscape, point: Point, target: float, evaluations: int = EVALUATIONS) -> Point:
    """Return the point after exchanges of one or two choices for others, which lower the damage within the target.

    A group gets wider or narrower, or a block leaves or returns; then others pay for it, or make use of it.
    """
    damage, improved = landscape.damage(point), True
    while improved:
        improved = False
        for fixed, start in _changes(landscape, point):
            if landscape.evaluations >= evaluations:
                return point
            other = filled(landscape, reduced(landscape, start, target, fixed), target, fixed)
            other = filled(landscape, other, target)
            if landscape.cost(other) <= target and landscape.damage(other) < damage * (1 - _EQUAL):
                point, damage, improved = other, landscape.damage(other), True
                break
    return point


def _changes(landscape: Landscape, point: Point) -> Iterator[tuple[frozenset[Name], Point]]:
    """Yield what one change leads to, then what two do, with the names of what changed."""
    for name, other in _single(landscape, point):
        yield frozenset({name}), other
    for first, other in _single(landscape, point):
        for second, last in _single(landscape, other):
            if second > first:
                yield frozenset({first, second}), last


def _single(landscape: Landscape, point: Point) -> Iterator[tuple[Name, Point]]:
    for block in landscape.choices.blocks:
        yield Name("block", block), point.toggled(block)
    for group in landscape.moving(point):
        here = point.places[group]
        for place in range(max(0, here - _STEPS), min(here + _STEPS + 1, len(landscape.choices.grids[group]))):
            if place != here:
                yield Name("group", group), point.moved(group, place)

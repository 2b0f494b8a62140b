"""Meeting a cost: the widths of an allocation whose network costs what was asked for."""

from __future__ import annotations

from bisect import bisect_left
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pipeline.compress.pruning.cost import CostModel

#: Kept widths by group.
Widths = dict[str, int]
_Found = tuple[float, int, Widths]  # distance from the target, when it was seen, and what was seen

#: Fraction of the target within which a cost meets it.
TOLERANCE = 0.01

_HALVINGS = 24  # of the ratio: 6e-8 is less than one channel in any network
_EVALUATIONS = 10_000  # of the cost, until the search for nearer widths ends; less than a second of counting


def widths_at_cost(
    path: Callable[[float], Widths],
    grids: Mapping[str, Sequence[int]],
    model: CostModel,
    target: float,
    tolerance: float,
) -> Widths:
    """Return widths near `path` with a cost near `target`.

    The ratio at which the cost passes the target is found by bisection. The groups that change there change one after
    another, in their order, up to the widths that come nearest. Where these are not within `tolerance`, groups take
    single steps on their grids, in a best-first search that goes on alternately from the nearest widths that cost
    too little and too much.

    Args:
        path: widths by group for the fraction of the channels that leaves, in [0, 1]; none gets wider as it grows.
        grids: the widths that each group may have, ascending; the last is its whole width.
        model: what counts as cost.
        target: the cost to reach.
        tolerance: fraction of `target` that is near enough.

    Returns:
        Widths within `tolerance` of the target, or where the grids are too coarse for that, the nearest that were seen.

    Raises:
        InputError: the whole network costs no more than `target`, or the narrowest widths cost more.

    Cost: some dozens of evaluations of the model where grids are fine, 10,000 where they are too coarse.
    """
    require_reachable(grids, model, target, tolerance)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if model.cost(path(middle)) > target else (low, middle)
    return nearest_widths(_one_by_one(path(low), path(high)), grids, model, target, tolerance * target)


def require_reachable(
    grids: Mapping[str, Sequence[int]], model: CostModel, target: float, tolerance: float = TOLERANCE
) -> None:
    """Raise InputError where the whole network costs no more than `target`, or the narrowest widths cost more."""
    narrowest, whole = ({name: grid[end] for name, grid in grids.items()} for end in (0, -1))
    if (before := model.cost(whole)) <= target:
        raise InputError(f"The target of {target:.6g} {model.name} is not below the {before:.6g} that the network has.")
    if (least := model.cost(narrowest)) > (1 + tolerance) * target:
        raise InputError(
            f"The target of {target:.6g} {model.name} cannot be reached: with every group at its floor {least:.6g} "
            f"remain, {least / before:.3f} of the network's {before:.6g}. Raise the target, or lower floors and align."
        )


def _one_by_one(wide: Widths, narrow: Widths) -> Iterator[Widths]:
    """Yield the widths on the way from `wide` to `narrow` as one group after another changes."""
    yield wide
    for name in wide:
        if narrow[name] != wide[name]:
            wide = {**wide, name: narrow[name]}
            yield wide


def nearest_widths(
    starts: Iterable[Widths], grids: Mapping[str, Sequence[int]], model: CostModel, target: float, enough: float
) -> Widths:
    """Return the first widths that differ from the target by no more than `enough`, or the nearest that were seen.

    The search is best-first from `starts`, by single steps on the grids.
    """
    below, above = list[_Found](), list[_Found]()  # heaps
    nearest: _Found = (inf, 0, {})
    seen: set[tuple[int, ...]] = set()
    for turn in count():
        for widths in starts:
            key = tuple(widths.values())
            if key not in seen:
                seen.add(key)
                cost = model.cost(widths)
                found = abs(cost - target), len(seen), widths
                heappush(above if cost > target else below, found)
                nearest = min(nearest, found)
        if nearest[0] <= enough or len(seen) >= _EVALUATIONS or not (below or above):
            break
        _, _, widths = heappop((below or above) if turn % 2 else (above or below))
        starts = _steps(widths, grids)
    return nearest[2]


def _steps(widths: Widths, grids: Mapping[str, Sequence[int]]) -> Iterator[Widths]:
    for name, grid in grids.items():
        place = bisect_left(grid, widths[name])
        for width in (*grid[max(0, place - 1) : place], *grid[place + 1 : place + 2]):
            yield {**widths, name: width}

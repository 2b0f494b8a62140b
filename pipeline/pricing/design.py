"""Which states of a network to probe: spread over all widths first, then where the model is least sure of itself."""

from __future__ import annotations

from bisect import bisect_left
from random import Random
from typing import TYPE_CHECKING

from pipeline.compress.pruning.state import NetworkState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pipeline.pricing.model import LatencyModel

_NARROWEST = 0.25  # of a group's width in a drawn state
_JITTER = 0.3  # by which the widths of one state differ from their common level, as a fraction of it
_SINGLE_BLOCKS = 12  # that leave alone; of more, random halves leave
_HALVES = 6
_FEW_GROUPS = 12  # each of which is probed alone at its narrowest
_DROPPED = 0.75  # of the blocks at most, in a drawn state that lacks some


def probe_states(
    grids: Mapping[str, Sequence[int]], droppable: Sequence[str], seed: int, count: int = 24
) -> tuple[NetworkState, ...]:
    """Return distinct states to probe first, the same for the same seed.

    `count` states have widths between a quarter and all of each group: half of them those of a Latin hypercube, which
    tells groups apart, half of them near a common level, which reaches far up and down. Every second lacks up to three
    quarters of the blocks. Then comes all that can be removed, with and without the blocks, and every group one place
    narrower than whole, which tells widths that are slower than wider ones. Then each block leaves alone (of more than
    twelve, random halves leave), and where groups are few, each alone is at its narrowest.

    Args:
        grids: the widths that each group may have, ascending; the last is its whole width.
        droppable: the residual blocks that may leave.
        seed: of what is drawn.
        count: how many states to draw.
    """
    random = Random(seed)  # noqa: S311 - nothing secret
    moving = {group: grid for group, grid in grids.items() if len(grid) > 1}
    drawn = [*_spread(moving, random, count - count // 2), *_levels(moving, random, count // 2)]
    states = []
    for place, widths in enumerate(drawn):
        share = _DROPPED * random.random() if place % 2 else 0.0
        gone = [block for block in droppable if random.random() < share]
        states.append(NetworkState(widths, frozenset(gone)))
    narrowest = {group: grid[0] for group, grid in moving.items()}
    next_to_whole = {group: grid[-2] for group, grid in moving.items()}
    ends = NetworkState(narrowest), NetworkState(narrowest, frozenset(droppable)), NetworkState(next_to_whole)
    return distinct((*states, *ends, *_alone(moving, droppable, random)))


def active_states(model: LatencyModel, candidates: Sequence[NetworkState], count: int = 16) -> tuple[NetworkState, ...]:
    """Return those of some states whose predicted time is least certain, the least certain first.

    Args:
        model: one that was fitted to the probes so far.
        candidates: states that a solver visited on the way to its targets.
        count: how many at most.
    """
    different = distinct(candidates)
    deviations = model.deviations(different)
    order = sorted(range(len(different)), key=lambda place: -deviations[place])
    return tuple(different[place] for place in order[:count])


def distinct(states: Iterable[NetworkState]) -> tuple[NetworkState, ...]:
    """Return every state once, in their order, without the whole network."""
    found = {(tuple(sorted(state.widths.items())), state.dropped): state for state in states}
    found.pop(((), frozenset()), None)
    return tuple(found.values())


def _spread(grids: Mapping[str, Sequence[int]], random: Random, count: int) -> Iterator[dict[str, int]]:
    """Yield widths by group so that every group has a width in each of `count` equal ranges once."""
    places = {group: random.sample(range(count), count) for group in grids}
    for state in range(count):
        yield _at(grids, {group: _fraction((places[group][state] + random.random()) / count) for group in grids})


def _levels(grids: Mapping[str, Sequence[int]], random: Random, count: int) -> Iterator[dict[str, int]]:
    """Yield widths by group that are all near one fraction of their width, which descends from state to state."""
    for state in range(count):
        level = _fraction(1 - (state + random.random()) / count)
        yield _at(grids, {group: level * random.uniform(1 - _JITTER, 1 + _JITTER) for group in grids})


def _fraction(share: float) -> float:
    return _NARROWEST + (1 - _NARROWEST) * share


def _at(grids: Mapping[str, Sequence[int]], fractions: Mapping[str, float]) -> dict[str, int]:
    """Return the widths on the grids nearest to these fractions of the whole; groups that stay whole are left out."""
    widths = {group: _nearest(grid, fractions[group] * grid[-1]) for group, grid in grids.items()}
    return {group: width for group, width in widths.items() if width < grids[group][-1]}


def _nearest(grid: Sequence[int], wanted: float) -> int:
    above = min(bisect_left(grid, wanted), len(grid) - 1)
    return min(grid[max(0, above - 1) : above + 1], key=lambda width: abs(width - wanted))


def _alone(grids: Mapping[str, Sequence[int]], droppable: Sequence[str], random: Random) -> Iterator[NetworkState]:
    if len(droppable) <= _SINGLE_BLOCKS:
        yield from (NetworkState(dropped=frozenset({block})) for block in droppable)
    else:
        for _ in range(_HALVES):
            half = frozenset(random.sample(droppable, len(droppable) // 2))
            yield NetworkState(dropped=half)
            yield NetworkState(dropped=frozenset(droppable) - half)
    if len(grids) <= _FEW_GROUPS:
        yield from (NetworkState({group: grid[0]}) for group, grid in grids.items())

"""Uniform, global and isomorphic allocation: channels leave in the order of their scores within pools of groups.

The three differ in the pools alone: every group is one; all groups are one; the groups of each structure are one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from pipeline.compress.pruning.allocation.constraints import Constraints
from pipeline.compress.pruning.allocation.widths import Allocation, Kept

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph, Group


def uniform_allocation(scores: Mapping[str, Tensor], constraints: Constraints) -> Allocation:
    """Remove the same fraction of every group; a group whose constraints protect more loses less.

    Args:
        scores: [width] by group.
        constraints: what every group keeps at least, and on which grid.

    Raises:
        StageError: a score is not a finite number.
    """
    return _ranked(scores, constraints, [[name] for name in scores])


def global_allocation(scores: Mapping[str, Tensor], constraints: Constraints) -> Allocation:
    """Rank the channels of all groups together; those with the lowest scores leave.

    The best of each group, as many as its constraints protect, are no candidates. Groups no wider than their alignment
    stay whole and do not count in the fraction. Among equal scores, groups lose equal fractions.

    Args:
        scores: [width] by group, comparable between groups: see `pipeline.compress.pruning.importance.normalise`.
        constraints: what every group keeps at least, and on which grid.

    Source: global ranking with a protected share of each group, as in DepGraph (Fang et al., CVPR 2023).

    Raises:
        StageError: a score is not a finite number.
    """
    return _ranked(scores, constraints, [list(scores)])


def isomorphic_allocation(scores: Mapping[str, Tensor], constraints: Constraints, graph: ChannelGraph) -> Allocation:
    """Rank channels only among groups of the same structure; the same fraction of each structure leaves.

    Two groups have the same structure if their members are the same in number and kind: name of the tensor in its
    layer, number of its dimensions, which of them is sliced, and on which side of the layer. Widths do not matter.
    A structure of which more is protected loses less.

    Args:
        scores: [width] by group.
        constraints: what every group keeps at least, and on which grid.
        graph: the channels that the groups are from.

    Source: Fang et al., Isomorphic Pruning for Vision Models, ECCV 2024. Differs: the paper compares sub-networks as
    graphs with operator types; here it is their multiset of sliced tensors, which does not tell how they are wired.

    Raises:
        StageError: a score is not a finite number.
    """
    pools: dict[object, list[str]] = defaultdict(list)
    for group in graph.groups:
        if group.name in scores:
            pools[structure(group, graph.shapes)].append(group.name)
    return _ranked(scores, constraints, list(pools.values()))


def structure(group: Group, shapes: Mapping[str, Sequence[int]]) -> tuple[tuple[str, int, int, bool], ...]:
    """Return what two groups of the same structure have in common; see `isomorphic_allocation`."""
    return tuple(
        sorted(
            (member.tensor.rpartition(".")[2], len(shapes[member.tensor]), member.dim, member.consumes)
            for member in group.members
        )
    )


def uniform_kept(scores: Mapping[str, Tensor], ratio: float, *, floor: float, align: int) -> Kept:
    """Remove the fraction `ratio` of every group: `uniform_allocation` in one call."""
    return uniform_allocation(scores, Constraints(floor, align)).at_ratio(ratio)


def _ranked(scores: Mapping[str, Tensor], constraints: Constraints, pools: Sequence[Sequence[str]]) -> Allocation:
    """Return the allocation that removes the same fraction of each pool, lowest scores first.

    A pool of several groups loses whole channels; a group alone is rounded to its grid only, which is done later.
    """
    index = {name: place for place, name in enumerate(scores)}
    whole = np.array([len(score) for score in scores.values()], np.float64)
    orders = [_order(scores, constraints, pool) for pool in pools]
    places = [[index[name] for name in pool] for pool in pools]

    def wanted(ratio: float) -> dict[str, float]:
        widths = whole.copy()
        for (total, order), place in zip(orders, places, strict=True):
            removed = ratio * total if len(place) == 1 else round(ratio * total)
            widths[place] -= _lost(order, removed, len(place))
        return dict(zip(scores, widths.tolist(), strict=True))

    return Allocation(scores, constraints, wanted)


def _order(
    scores: Mapping[str, Tensor], constraints: Constraints, pool: Sequence[str]
) -> tuple[int, NDArray[np.int64]]:
    """Return how many channels of a pool count, and the groups (their place in it) in the order of leaving.

    Equal scores leave by their relative place in their group, so that groups of equal scores shrink alike.
    """
    values, shares, owners, total = [np.empty(0)], [np.empty(0)], [np.empty(0, np.int64)], 0
    for place, name in enumerate(pool):
        width, constraint = len(scores[name]), constraints.of(name)
        if width > constraint.align:
            free = max(0, width - constraint.least(width))
            values.append(scores[name].detach().double().cpu().sort().values[:free].numpy())
            shares.append(np.arange(free) / width)
            owners.append(np.full(free, place))
            total += width
    order = np.lexsort((np.concatenate(shares), np.concatenate(values)))
    return total, np.concatenate(owners)[order]


def _lost(order: NDArray[np.int64], removed: float, groups: int) -> NDArray[np.float64]:
    """Return how many channels each group of a pool loses when `removed` leave; the last one may leave in part."""
    removed = min(removed, len(order))
    entirely = int(removed)
    lost = np.bincount(order[:entirely], minlength=groups).astype(np.float64)
    if removed > entirely:
        lost[order[entirely]] += removed - entirely
    return lost

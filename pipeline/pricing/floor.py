"""The least time that a file can be brought to, and what it consists of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.compress.pruning.state import NetworkState
from pipeline.pricing.table import Row

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pipeline.pricing.model import LatencyModel

_SWEEPS = 3  # over all groups, each at the width that costs least


@dataclass(frozen=True)
class Floor:
    """The least milliseconds of any state, and the four parts that they are the sum of.

    Attributes:
        ms: the least time.
        overhead: what no node takes.
        calls: what the nodes that are left take at any width.
        unchanged: work that no group narrows: a layer whose sides both stay, such as the first with a kept output.
        narrowed: the rest, with every group at its cheapest.
        nodes: milliseconds by node that is left, the longest first.
        state: the cheapest widths without the blocks that may leave.
    """

    ms: float
    overhead: float
    calls: float
    unchanged: float
    narrowed: float
    nodes: Mapping[str, float] = field(repr=False)
    state: NetworkState = field(repr=False)

    @property
    def parts(self) -> dict[str, float]:
        """The four parts in milliseconds by what people call them, the longest first."""
        parts = {
            "overhead of the runtime": self.overhead,
            "calls of operators": self.calls,
            "layers that nothing narrows": self.unchanged,
            "groups at their narrowest": self.narrowed,
        }
        return dict(sorted(parts.items(), key=lambda item: -item[1]))


def floor_of(model: LatencyModel, grids: Mapping[str, Sequence[int]], droppable: Collection[str] = ()) -> Floor:
    """Return the least time of any state with widths on these grids (ascending), without all blocks that may leave."""
    state = _least(model, grids, frozenset(droppable))
    moving = {group for group, grid in grids.items() if grid[0] < model.groups[group]}
    parts = {"calls": 0.0, "unchanged": 0.0, "narrowed": 0.0}
    for feature, ms in model.feature_times(state):
        narrows = any(moving & Row(term, 1, frozenset()).groups for term in feature.terms)
        parts["calls" if feature.kind == "call" else "narrowed" if narrows else "unchanged"] += ms
    times = sorted(model.node_times(state).items(), key=lambda item: -item[1])
    nodes = {node: ms for node, ms in times if ms > 0}
    return Floor(model.overhead + sum(parts.values()), model.overhead, nodes=nodes, state=state, **parts)


def _least(model: LatencyModel, grids: Mapping[str, Sequence[int]], dropped: frozenset[str]) -> NetworkState:
    """Return the cheapest state: widths can cost more than the next wider ones, so the narrowest need not be it."""
    state = NetworkState({group: grid[0] for group, grid in grids.items()}, dropped)
    for _ in range(_SWEEPS):
        for group, grid in grids.items():
            costs = model.costs(state, group, grid)
            state = NetworkState({**state.widths, group: grid[int(costs.argmin())]}, dropped)
    return state

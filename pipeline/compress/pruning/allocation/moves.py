"""Points of a search over widths and blocks: their damage and cost, and what each group's other widths would cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from pipeline.compress.pruning.state import NetworkState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.compress.pruning.allocation.damage import Choices
    from pipeline.compress.pruning.cost import CostModel

    Floats = NDArray[np.float64]

_AT_ONCE = 32  # widths of one group that are priced in the time that one takes


@runtime_checkable
class StateCostModel(Protocol):
    """A `CostModel` that also knows networks without some residual blocks, and many widths of one group at once."""

    @property
    def name(self) -> str:
        """What is counted."""

    def cost(self, widths: Mapping[str, int], dropped: Collection[str] = frozenset()) -> float:
        """Return the cost with these kept widths by group, without these blocks."""

    def costs(self, state: NetworkState, group: str, widths: Sequence[int]) -> Floats:
        """Return the cost [len(widths)] of a state with this group at each of these widths."""


@dataclass(frozen=True)
class Point:
    """Places on the grids of all groups, and the blocks that are gone."""

    places: Mapping[str, int]
    dropped: frozenset[str] = frozenset()

    def moved(self, group: str, place: int) -> Point:
        """Return the point with one group at another place."""
        return Point({**self.places, group: place}, self.dropped)

    def toggled(self, block: str) -> Point:
        """Return the point without the block, or with it again."""
        return Point(self.places, self.dropped ^ {block})


class Landscape:
    """Damage and cost of every point. `evaluations` counts the questions that the model was asked."""

    def __init__(self, choices: Choices, model: CostModel) -> None:
        self.choices, self.model = choices, model
        self._by_state = model if isinstance(model, StateCostModel) else None
        self.evaluations = 0
        self.whole = Point({group: len(grid) - 1 for group, grid in choices.grids.items()})
        self.narrowest = Point(dict.fromkeys(choices.grids, 0), frozenset(choices.blocks))
        self._last: tuple[Point, NetworkState, float, float] | None = None

    def state(self, point: Point) -> NetworkState:
        """Return the widths and blocks of a point; groups of blocks that are gone, and whole ones, are not named."""
        return self._of(point)[1]

    def damage(self, point: Point) -> float:
        """Return the sum over groups and blocks."""
        return self._of(point)[2]

    def cost(self, point: Point) -> float:
        """Return the cost of a point."""
        return self._of(point)[3]

    def gone(self, point: Point) -> frozenset[str]:
        """Return the groups that left with their block."""
        inside = self.choices.inside
        return frozenset().union(*(inside.get(block, frozenset()) for block in point.dropped))

    def along(self, point: Point, group: str) -> Floats:
        """Return the cost with the group at each place of its grid [len(grid)]."""
        grid, state = self.choices.grids[group], self.state(point)
        if self._by_state:
            self.evaluations += 1 + len(grid) // _AT_ONCE
            return self._by_state.costs(state, group, grid)
        self.evaluations += len(grid)
        return np.array([self.model.cost({**state.widths, group: width}) for width in grid])

    def moving(self, point: Point) -> Iterator[str]:
        """Yield the groups that are there and have more than one width."""
        gone = self.gone(point)
        yield from (group for group, grid in self.choices.grids.items() if len(grid) > 1 and group not in gone)

    def _of(self, point: Point) -> tuple[Point, NetworkState, float, float]:
        """Return a point's state, damage and cost; a search asks for one point many times in a row."""
        if self._last is None or self._last[0] is not point:
            gone, grids, damage = self.gone(point), self.choices.grids, self.choices.damage
            left = {group: place for group, place in point.places.items() if group not in gone}
            narrower = {group: grids[group][place] for group, place in left.items() if place + 1 < len(grids[group])}
            state = NetworkState(narrower, point.dropped)
            lost = sum(float(damage[group][place]) for group, place in left.items())
            lost += sum(self.choices.blocks[block] for block in point.dropped)
            self._last = point, state, lost, self._cost(state)
        return self._last

    def _cost(self, state: NetworkState) -> float:
        self.evaluations += 1
        if self._by_state:
            return float(self._by_state.cost(state.widths, state.dropped))
        if state.dropped:
            raise ValueError(f"the model of {self.model.name} knows no networks without blocks")
        return float(self.model.cost(state.widths))

"""The cost model of a network that is narrowed already, in terms of what is left of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pipeline.compress.pruning.state import NetworkState

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray


class TimeModel(Protocol):
    """Milliseconds of a state: `LatencyModel` or `CoarseModel`."""

    name: str

    def cost(self, widths: Mapping[str, int], dropped: Collection[str] = frozenset()) -> float:
        """Return the milliseconds with these kept widths by group, without these blocks."""

    def costs(self, state: NetworkState, group: str, widths: Sequence[int]) -> NDArray[Any]:
        """Return the milliseconds of a state with this group at each of these widths."""


def merged(base: NetworkState, state: NetworkState) -> NetworkState:
    """Return a state of the narrowed network as one of the whole network."""
    return NetworkState({**base.widths, **state.widths}, base.dropped | state.dropped)


class RelativeModel:
    """A `CostModel` of what is left at `base`: groups that are not named have the width that they have there."""

    def __init__(self, model: TimeModel, base: NetworkState) -> None:
        self.model, self.base, self.name = model, base, model.name

    def cost(self, widths: Mapping[str, int], dropped: Collection[str] = frozenset()) -> float:
        """Return the milliseconds with these kept widths by group, without these blocks."""
        state = merged(self.base, NetworkState(widths, frozenset(dropped)))
        return self.model.cost(state.widths, state.dropped)

    def costs(self, state: NetworkState, group: str, widths: Sequence[int]) -> NDArray[Any]:
        """Return the milliseconds of a state with this group at each of these widths."""
        return self.model.costs(merged(self.base, state), group, widths)
